import type { StoredTask } from '../../types/backend'
import type { Carrier } from '../../types/messages'
import type { TaskState } from '../../types/task'
import { propagation } from '../observe/propagation'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { AT_ONCE, mapInSlices } from '../shared/slices'
import { sleep } from '../shared/timers'
import type { RemoteTask } from '../task/extra'
import type { Definition, TaskSpec } from '../task/spec'
import { COLLECTING, PENDING, RUNNING, STATES, STORED } from '../task/states'
import type { Task } from '../task/task'
import type { Store } from './store'

/** The time between two questions to a backend whether a task has settled. */
const SETTLED_INTERVAL_MS = 200

/** Hands tasks over to the backend. Made at registration if there is a backend, kept as long as the application. */
export class HandOver {
  readonly #engine: Engine
  readonly store: Store

  constructor (engine: Engine, store: Store) {
    this.#engine = engine
    this.store = store
  }

  /** Whether a task goes to the backend. */
  isDurable ({ spec }: Task): boolean {
    return spec !== null && spec.definition !== null && !spec.local
  }

  /**
   * Stores tasks of one line. Once the backend has them, they settle here, as `stored`.
   * @throws FST_BGT_STORE_FAILED (as a rejection): the tasks are collected, as before
   */
  send (tasks: Task[], line: Line): Promise<void> {
    for (const task of tasks) this.#engine.ledger.move(task, PENDING)
    const stored = this.#addToStore(tasks, line)
    const answered = stored.catch(() => {})
    for (const task of tasks) task.extra.remote = new StoredRemotely(this.store, task, line.requestId, answered)
    return stored.then(ids => this.#arrived(tasks, line, ids), error => this.#refused(tasks, error))
  }

  #addToStore (tasks: Task[], line: Line): Promise<string[]> {
    try {
      return this.store.add(tasks.map(task => toStored(task, line)))
    } catch (error) {
      // The instrumentation has thrown.
      return Promise.reject(this.store.refusal(error))
    }
  }

  #arrived (tasks: Task[], line: Line, ids: string[]): Promise<void> | undefined {
    const engine = this.#engine
    const settle = (task: Task, index: number) => {
      if (task.isSettled) {
        // Cancelled or replaced during the write. Another request may have dropped its task because of this one's dedupe id.
        if ((task.spec as TaskSpec).dedupe !== null) return engine.report.staysStored(task, line, 'it has a dedupe id')
        this.store.cancel(task.ownId, task.name, line.requestId).then(cancelled => {
          if (!cancelled) engine.report.staysStored(task, line, this.store.whyNotCancelled)
        }, error => engine.report.notCancelled(task, line, error))
      } else if (ids[index] === task.ownId) {
        engine.settle(task, line, STORED)
      } else {
        engine.drop(task, line, `its dedupe id is taken by task ${ids[index]}`)
      }
    }
    if (tasks.length > AT_ONCE) return mapInSlices(tasks, settle).then(() => {})
    tasks.forEach(settle)
  }

  #refused (tasks: Task[], error: unknown): never {
    for (const task of tasks) {
      if (task.status === PENDING) this.#engine.ledger.move(task, COLLECTING)
      propagation()?.refused(task, error)
    }
    throw error
  }
}

/** A task in the backend. Made when the task is sent there, kept by its handle. */
export class StoredRemotely implements RemoteTask {
  protected readonly store: Store
  protected readonly task: Task
  readonly #requestId: string | null
  readonly answered: Promise<unknown>
  #cancelled = false

  constructor (store: Store, task: Task, requestId: string | null, answered: Promise<unknown>) {
    this.store = store
    this.task = task
    this.#requestId = requestId
    this.answered = answered
  }

  async cancel (): Promise<boolean> {
    const { ownId, name } = this.task
    this.#cancelled = await this.store.cancel(ownId, name, this.#requestId)
    return this.#cancelled
  }

  async settled (): Promise<TaskState> {
    while (!this.store.closed) {
      const info = await this.store.find(this.task.ownId).catch(() => undefined)
      if (info === null) break
      if (info !== undefined && STATES.indexOf(info.state) > RUNNING) return info.state
      await sleep(SETTLED_INTERVAL_MS)
    }
    return this.#cancelled ? 'cancelled' : 'stored'
  }
}

/** A task as the backend gets it. */
export function toStored (task: Task, line: Line): StoredTask {
  const { definition, attempts, backoff, delay, timeout, dedupe } = task.spec as TaskSpec
  return {
    id: task.ownId,
    name: (definition as Definition).name,
    label: task.name,
    payload: (task.payload as string | undefined) ?? null,
    requestId: idText(line.requestId),
    attempts,
    backoff,
    delay,
    timeout,
    dedupe,
    carrier: carrierOf(task)
  }
}

/** The application's `genReqId` may return a value of any type. */
function idText (id: unknown): string | null {
  return id === null ? null : String(id)
}

/** The trace context of the call of `add`, which the task continues. */
function carrierOf (task: Task): Carrier | null {
  const active = propagation()
  return active === null ? null : task.run(() => active.inject(task), []) as Carrier
}
