import type { FastifyRequest } from 'fastify'
import { AsyncLocalStorage } from 'node:async_hooks'
import { createTask, type Add } from './add'
import type { CapturedTask } from './capture'
import { addChannel, publishAdd } from './diagnostics'
import { FST_BGT_IDLE_IN_HANDLER, FST_BGT_NO_ASYNC_CONTEXT } from './errors'
import type { Stats } from './ledger'
import { Line } from './line'
import { RequestTasks } from './request-tasks'
import type { Runtime } from './runtime'
import { handOver, isDurable } from './store'
import { FAILED, type Task, type TaskHandle } from './task'
import type { TaskInfo } from './task-index'

/** The application's door to its tasks: `app.backgroundTasks`. */
export interface AppBackgroundTasks extends Add {
  /**
   * Resolves when no task runs or waits to run, and no request that has tasks is on its way to its end; what waits for the
   * last task to settle has one turn of the event loop to add another. Tasks that are delayed into the future do not hold it.
   * @throws FST_BGT_IDLE_IN_HANDLER (as a rejection) when only handlers that have not answered remain: one of them may
   * be the caller, which would wait for itself.
   */
  idle (): Promise<void>
  /**
   * Resolves when the backend has all tasks that were added here so far.
   * @throws FST_BGT_STORE_FAILED (as a rejection)
   */
  flush (): Promise<void>
  /** How many tasks are in each state, now. */
  stats (): Stats
  /**
   * What is known of a task: while it is not settled, and for the last thousand that are; of a stored task, for as long
   * as its backend keeps it. Resolves with `null` for an id that is unknown, or was never read.
   */
  find (id: string): Promise<TaskInfo | null>
  /** With `mode: 'capture'`, the tasks that would have run, in that order. Empty it as any array. */
  readonly captured: CapturedTask[]
  /**
   * A door that may be kept anywhere: its `add` goes to the request in progress, and outside of one to the application.
   * @throws FST_BGT_NO_ASYNC_CONTEXT without the option `asyncContext`
   */
  readonly current: Add
}

export class AppTasks implements AppBackgroundTasks {
  readonly #runtime: Runtime
  readonly #current: Add | null
  /** Tasks on their way to the backend. */
  readonly #storing = new Set<Promise<void>>()

  /** What is behind a door, for the other entries of the package; `null` if it is none. */
  static runtimeOf (door: object): Runtime | null {
    return #runtime in door ? door.#runtime : null
  }

  constructor (runtime: Runtime) {
    this.#runtime = runtime
    this.#current = runtime.options.asyncContext ? new CurrentTasks(this) : null
  }

  add (first: unknown, ...args: unknown[]): TaskHandle {
    const { ledger, runner } = this.#runtime
    const line = new Line(this.#runtime, null)
    const task = createTask(line, first, args)
    ledger.admit()
    ledger.accept(task, line)
    if (addChannel.hasSubscribers) {
      publishAdd(task, line)
      // A subscriber has called it off.
      if (task.isSettled) return task
    }
    if (isDurable(task, this.#runtime)) {
      this.#store(task, line)
      return task
    }
    line.join(task)
    runner.enqueue(line)
    return task
  }

  #store (task: Task, line: Line): void {
    const stored = handOver([task], this.#runtime)
    this.#storing.add(stored)
    stored.catch(error => {
      this.#runtime.report.failed(task, line, error)
      line.settle(task, FAILED)
    }).finally(() => { this.#storing.delete(stored) })
  }

  async flush (): Promise<void> {
    await Promise.all(this.#storing)
  }

  idle (): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#runtime.ledger.whenLasting(() => this.#unanswered() !== null, () => {
        const unanswered = this.#unanswered() as number
        if (unanswered === 0) resolve()
        else reject(new FST_BGT_IDLE_IN_HANDLER(unanswered))
      })
    })
  }

  /** How many requests that have tasks are not answered yet; `null` while there is anything else to wait for. */
  #unanswered (): number | null {
    const { ledger } = this.#runtime
    if (ledger.active !== 0) return null
    let unanswered = 0
    for (const line of ledger.openLines()) {
      if (!(line instanceof RequestTasks) || line.outcome !== null || line.released) continue
      if (line.answered) return null
      unanswered++
    }
    return unanswered
  }

  stats (): Stats {
    return this.#runtime.ledger.stats()
  }

  async find (id: string): Promise<TaskInfo | null> {
    const { index, store } = this.#runtime
    return index.find(id) ?? await store?.find(id) ?? null
  }

  get captured (): CapturedTask[] {
    return this.#runtime.captured
  }

  get current (): Add {
    if (this.#current === null) throw new FST_BGT_NO_ASYNC_CONTEXT()
    return this.#current
  }
}

/** The request in progress. One store for all registrations: those that share a DI container share the door in it. */
let requests: AsyncLocalStorage<FastifyRequest>

/** Runs the rest of a request's way so that {@link AppBackgroundTasks.current} finds it. */
export function runInRequest (request: FastifyRequest, next: () => void): void {
  requests.run(request, next)
}

/** See {@link AppBackgroundTasks.current}. */
class CurrentTasks implements Add {
  readonly #app: AppTasks

  constructor (app: AppTasks) {
    this.#app = app
    requests ??= new AsyncLocalStorage()
  }

  add (first: unknown, ...args: unknown[]): TaskHandle {
    const tasks = (requests.getStore()?.backgroundTasks ?? this.#app) as Pick<AppTasks, 'add'>
    return tasks.add(first, ...args)
  }
}
