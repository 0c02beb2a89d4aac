import type { FastifyRequest } from 'fastify'
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Add, AppBackgroundTasks } from '../../types/collector'
import type { ScheduleInfo } from '../../types/schedule'
import type { CapturedTask, Stats, TaskHandle, TaskInfo } from '../../types/task'
import { addChannel, publishAdd } from '../observe/channels'
import { Line } from '../run/line'
import type { ScheduleSettings } from '../run/settings'
import { FST_BGT_IDLE_IN_HANDLER, FST_BGT_NO_ASYNC_CONTEXT, FST_BGT_STORE_FAILED } from '../shared/errors'
import type { HandOver } from '../store/hand-over'
import { definitionOf } from '../task/define'
import type { Definition } from '../task/spec'
import type { Task } from '../task/task'
import { addInTransaction } from './add-in-transaction'
import { assertBound } from './bound'
import { createTask, definedTask } from './create-task'
import type { AppParts } from './parts'
import { RequestTasks } from './request-tasks'

/** The application's collector: `app.backgroundTasks`. Each of its tasks has a line of its own. Made at registration. */
export class AppTasks implements AppBackgroundTasks {
  readonly #parts: AppParts
  readonly #current: Add | null
  /** Tasks on their way to the backend, each with the end of its way. */
  readonly #storing = new Map<Task, Promise<void>>()

  /** The parts behind `app.backgroundTasks`, for the other entries of the package; `null` for any other object. */
  static partsOf (app: object): AppParts | null {
    return #parts in app ? app.#parts : null
  }

  constructor (parts: AppParts) {
    this.#parts = parts
    this.#current = parts.engine.settings.asyncContext ? new CurrentTasks(this) : null
  }

  add (first: unknown, ...args: unknown[]): TaskHandle {
    assertBound(this)
    const { engine } = this.#parts
    const line = new Line(engine, null)
    return this.#accept(createTask(engine, line, first, args), line)
  }

  /** Adds a run of a schedule. */
  addRun ({ task, payload }: ScheduleSettings, dedupe: string | null): Task {
    const { engine } = this.#parts
    const line = new Line(engine, null)
    const args = payload === null ? [] : [JSON.parse(payload)]
    return this.#accept(definedTask(engine, line, task, args, { ...(definitionOf(task) as Definition).spec, dedupe }), line)
  }

  #accept (task: Task, line: Line): Task {
    const { engine, handOver } = this.#parts
    engine.ledger.assertRoom()
    engine.ledger.accept(task, line)
    if (addChannel.hasSubscribers) publishAdd(task, line)
    // A subscriber may have cancelled the task.
    if (task.isSettled) return task
    if (handOver !== null && handOver.isDurable(task)) {
      this.#store(task, line, handOver)
    } else {
      engine.join(task, line)
      engine.runner.enqueue(line)
    }
    return task
  }

  addInTransaction (client: unknown, first: unknown, ...args: unknown[]): Promise<TaskHandle> {
    assertBound(this)
    return addInTransaction(this.#parts, null, client, first, args)
  }

  #store (task: Task, line: Line, handOver: HandOver): void {
    const stored = handOver.send([task], line)
    this.#storing.set(task, stored)
    stored.catch(error => this.#parts.engine.fail(task, line, error)).finally(() => { this.#storing.delete(task) })
  }

  /**
   * Resolves when a task on its way to the backend has arrived there.
   * @throws FST_BGT_STORE_FAILED (as a rejection)
   */
  async stored (task: Task): Promise<void> {
    await this.#storing.get(task)
  }

  async flush (): Promise<void> {
    assertBound(this)
    await Promise.all(this.#storing.values())
  }

  idle (): Promise<void> {
    assertBound(this)
    return new Promise((resolve, reject) => {
      this.#parts.engine.ledger.whenLasting(() => this.#unanswered() !== null, () => {
        const unanswered = this.#unanswered() as number
        if (unanswered === 0) resolve()
        else reject(new FST_BGT_IDLE_IN_HANDLER(unanswered))
      })
    })
  }

  /** How many requests that have tasks are not answered yet; `null` while there is anything else to wait for. */
  #unanswered (): number | null {
    const { ledger } = this.#parts.engine
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
    assertBound(this)
    return this.#parts.engine.ledger.stats()
  }

  async find (id: string): Promise<TaskInfo | null> {
    assertBound(this)
    const { engine, handOver } = this.#parts
    const info = engine.ledger.index.find(id)
    if (handOver === null) return info
    if (info === null) return handOver.store.find(id)
    // The answer to its write may have been lost.
    return info.error instanceof FST_BGT_STORE_FAILED ? await handOver.store.find(id).catch(() => null) ?? info : info
  }

  schedules (): Promise<ScheduleInfo[]> {
    assertBound(this)
    return this.#parts.schedules.states()
  }

  runSchedule (id: string): Promise<TaskHandle | null> {
    assertBound(this)
    return this.#parts.schedules.run(id)
  }

  get captured (): CapturedTask[] {
    return this.#parts.engine.captured
  }

  get current (): Add {
    if (this.#current === null) throw new FST_BGT_NO_ASYNC_CONTEXT()
    return this.#current
  }
}

/** The request in progress. One store for all registrations: registrations that share a DI container share its `backgroundTasks`. */
let requests: AsyncLocalStorage<FastifyRequest>

/** Runs the rest of a request's hooks and its handler so that {@link AppBackgroundTasks.current} finds the request. */
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
    assertBound(this)
    return this.#tasks.add(first, ...args)
  }

  addInTransaction (client: unknown, first: unknown, ...args: unknown[]): Promise<TaskHandle> {
    assertBound(this)
    return this.#tasks.addInTransaction(client, first, ...args)
  }

  get #tasks (): Pick<AppTasks, 'add' | 'addInTransaction'> {
    return (requests.getStore()?.backgroundTasks ?? this.#app) as Pick<AppTasks, 'add' | 'addInTransaction'>
  }
}
