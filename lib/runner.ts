import { AsyncResource } from 'node:async_hooks'
import type { Executor } from './executor'
import type { Line } from './line'

/** Milliseconds that tasks may hold the thread before the runner lets the event loop turn once. */
const SLICE = 10

/** The clock is read after every task; while tasks are shorter than this, in ms, only after every eighth. */
const SHORT = 0.05
const MAX_UNCHECKED = 8

/**
 * Decides which task runs next. Lines that have something to run stand in one queue; each that comes to its front runs
 * one task and goes to the back: so lines with a thousand tasks and lines with one take turns, whatever the limit.
 */
export class Runner {
  readonly #executor: Executor
  #concurrency: number
  #firstReady: Line | null = null
  #lastReady: Line | null = null
  #running = 0
  #pumping = false
  #scheduled = false
  #sliceEnd = 0
  #lastCheck = 0
  #checkEvery = 1
  #untilCheck = 1
  /** The runner's own async context, so that it does not keep that of the request which happened to start it. */
  readonly #context = new AsyncResource('fastify-background-tasks.runner')
  readonly #turn = () => {
    this.#scheduled = false
    if (this.#firstReady === null) return
    this.#beginSlice()
    this.#pump()
  }

  constructor (executor: Executor, concurrency: number) {
    this.#executor = executor
    this.#concurrency = concurrency
  }

  /** Lets a line run what it has, from the next turn of the event loop on. */
  enqueue (line: Line): void {
    if (line.queued || !line.ready) return
    this.#push(line)
    this.#schedule()
  }

  /** The task that the line was busy with is over: the next one, of this line or another, takes its place. */
  done (line: Line): void {
    line.current = null
    if (line.ready) this.#push(line)
    this.#running--
    // Called by a task's own promise, perhaps long after the slice: then the pump starts nothing and asks for a turn.
    if (!this.#pumping && this.#firstReady !== null) this.#pump()
  }

  /** Starts nothing any more, and lets go of the lines that waited. */
  stop (): void {
    this.#concurrency = 0
    this.#firstReady = this.#lastReady = null
  }

  #push (line: Line): void {
    if (this.#concurrency === 0) return
    line.queued = true
    if (this.#lastReady === null) this.#firstReady = line
    else this.#lastReady.nextReady = line
    this.#lastReady = line
  }

  #pump (): void {
    this.#pumping = true
    while (this.#firstReady !== null && this.#running < this.#concurrency) {
      if (this.#sliceOver()) {
        this.#schedule()
        break
      }
      const line = this.#firstReady
      this.#firstReady = line.nextReady
      if (this.#firstReady === null) this.#lastReady = null
      line.nextReady = null
      line.queued = false
      const task = line.shift()
      if (task === null) continue
      line.current = task
      this.#running++
      this.#executor.execute(task, line)
    }
    this.#pumping = false
  }

  #schedule (): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#context.runInAsyncScope(setImmediate, undefined, this.#turn)
  }

  #beginSlice (): void {
    this.#lastCheck = performance.now()
    this.#sliceEnd = this.#lastCheck + SLICE
    this.#checkEvery = this.#untilCheck = 1
  }

  #sliceOver (): boolean {
    if (--this.#untilCheck >= 0) return false
    const now = performance.now()
    const short = now - this.#lastCheck < SHORT * this.#checkEvery
    this.#checkEvery = short ? Math.min(this.#checkEvery * 2, MAX_UNCHECKED) : 1
    this.#untilCheck = this.#checkEvery - 1
    this.#lastCheck = now
    return now >= this.#sliceEnd
  }
}
