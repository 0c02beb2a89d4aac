import { AsyncResource } from 'node:async_hooks'
import { List } from '../shared/list'
import { setImmediate } from '../shared/timers'
import type { Task } from '../task/task'
import type { Line } from './line'
import { Slice } from './slice'

/** Runs one attempt of a task, and calls `done` when the line is free again. The engine is one. */
export interface TaskExecutor {
  execute (task: Task, line: Line): void
}

/**
 * Decides which task runs next. Lines with something to run stand in one queue; the first runs one task and goes to the back. So a
 * line of a thousand tasks and a line of one take turns, whatever the limit. Made once for each registration.
 */
export class Runner {
  readonly #executor: TaskExecutor
  #concurrency: number
  readonly #ready = new List<Line>()
  #running = 0
  #pumping = false
  #scheduled = false
  readonly #slice = new Slice()
  /** The slice is over: nothing starts before the next turn, whatever ends meanwhile. */
  #over = false
  /** The runner's own async context, in place of that of the request which happened to start it. */
  readonly #context = new AsyncResource('fastify-background-tasks.runner')
  readonly #turn = () => {
    this.#scheduled = this.#over = false
    if (this.#ready.first === null) return
    this.#slice.begin()
    this.#pump()
  }

  constructor (executor: TaskExecutor, concurrency: number) {
    this.#executor = executor
    this.#concurrency = concurrency
  }

  /** Lets a line run its tasks, from the next turn of the event loop on. */
  enqueue (line: Line): void {
    if (line.queued || !line.ready) return
    this.#push(line)
    this.#schedule()
  }

  /** The line's task is over: the next one, of this line or another, takes its place. */
  done (line: Line): void {
    line.current = null
    this.#running--
    // Called by a task's own promise, perhaps long after the slice: then the pump starts nothing and asks for a turn.
    const mayStart = !this.#pumping && !this.#over
    if (line.ready) {
      if (mayStart && this.#ready.first === null && this.#running < this.#concurrency && !this.#isOver()) {
        // No other line waits: the most frequent case does without the queue.
        this.#pumping = true
        this.#start(line)
        this.#pumping = false
      } else {
        this.#push(line)
      }
    }
    if (mayStart && !this.#over && this.#ready.first !== null) this.#pump()
  }

  /** Starts nothing any more. */
  stop (): void {
    this.#concurrency = 0
    this.#ready.clear()
  }

  #push (line: Line): void {
    if (this.#concurrency === 0) return
    line.queued = true
    this.#ready.append(line)
  }

  #pump (): void {
    this.#pumping = true
    while (this.#ready.first !== null && this.#running < this.#concurrency) {
      if (this.#isOver()) break
      const line = this.#ready.shift() as Line
      line.queued = false
      this.#start(line)
    }
    this.#pumping = false
  }

  #start (line: Line): void {
    const task = line.shift()
    if (task === null) return
    line.current = task
    this.#running++
    this.#executor.execute(task, line)
  }

  #schedule (): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#context.runInAsyncScope(setImmediate, undefined, this.#turn)
  }

  /** Whether the slice is over; if so, asks for a turn. */
  #isOver (): boolean {
    if (!this.#slice.isOver()) return false
    this.#over = true
    this.#schedule()
    return true
  }
}
