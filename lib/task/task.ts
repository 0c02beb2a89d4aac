import { AsyncResource, executionAsyncId } from 'node:async_hooks'
import { randomUUID } from 'node:crypto'
import type { TaskHandle, TaskInfo, TaskState } from '../../types/task'
import { runInScope } from '../shared/run-in-scope'
import { newExtra, type TaskExtra } from './extra'
import { nameOf } from './name'
import type { KeptPayload } from './payload'
import type { TaskSpec } from './spec'
import { COLLECTING, FAILED, RUNNING, STATES, STORED } from './states'

/** A user's function, or the handler of a defined task. */
export type TaskFunction = (...args: any[]) => unknown

/** The holder of a task until it settles: its line. */
export interface TaskOwner {
  /** Cancels an unsettled task, if it can still be stopped. */
  cancel (task: Task): boolean
  /** Makes the task known to `find`. */
  remember (task: Task): void
}

/** One accepted task, and its own handle. Made by `add` or for a delivery; released when it settles. */
export class Task implements TaskHandle {
  /** The next task of the list that the task is in. */
  next: Task | null = null
  /** `null` once the task has settled. */
  owner: TaskOwner | null
  readonly fn: TaskFunction
  args: unknown[] | null
  readonly spec: TaskSpec | null
  /** Index of the state in {@link STATES}. */
  status = COLLECTING
  /** Time of the last change of state, by the clock of the observer; 0 without one. */
  since = 0
  /**
   * The async context of the call of `add`, one per task: `als.run` may change it between two calls. The second argument halves the
   * constructor's time (Node 20 to 24).
   */
  #context: AsyncResource | null = new AsyncResource('fastify-background-tasks.task', executionAsyncId())
  #extra: TaskExtra | null = null

  constructor (owner: TaskOwner, fn: TaskFunction, args: unknown[], spec: TaskSpec | null) {
    this.owner = owner
    this.fn = fn
    this.args = args
    this.spec = spec
  }

  get id (): string {
    const id = this.ownId
    this.owner?.remember(this)
    return id
  }

  /** The id for the plugin's own use: reading it does not make the task known to `find`. */
  get ownId (): string {
    const extra = this.extra
    extra.id ??= randomUUID()
    return extra.id
  }

  /** Whether the id has been made. */
  get hasId (): boolean {
    return this.#extra !== null && this.#extra.id !== null
  }

  get name (): string {
    return this.spec?.name ?? nameOf(this.fn)
  }

  get isSettled (): boolean {
    return this.status > RUNNING
  }

  get state (): TaskState {
    return STATES[this.status] as TaskState
  }

  async cancel (): Promise<boolean> {
    const remote = this.#extra === null ? null : this.#extra.remote
    // Wait for the backend's answer: until then a worker may have the task already.
    if (remote !== null) await remote.answered
    if (this.owner !== null) return this.owner.cancel(this)
    return this.status === STORED && remote !== null && remote.cancel()
  }

  settled (): Promise<TaskState> {
    const extra = this.extra
    if (this.status === STORED && extra.remote !== null) extra.settled ??= extra.remote.settled()
    else if (this.isSettled) return Promise.resolve(this.state)
    extra.settled ??= new Promise(resolve => { extra.resolve = resolve })
    return extra.settled
  }

  get extra (): TaskExtra {
    this.#extra ??= newExtra()
    return this.#extra
  }

  /** Attempts begun. Not counted for a function without options, which has one at most. */
  get attempts (): number {
    if (this.spec === null) return this.status >= RUNNING && this.status <= FAILED ? 1 : 0
    return this.#extra === null ? 0 : this.#extra.attempts
  }

  /** The payload of a defined task. */
  get payload (): KeptPayload {
    return (this.args as [KeptPayload])[0]
  }

  /** Keeps a value for `find`, which knows only tasks whose id has been read or that have failed. */
  note (field: 'progress' | 'result' | 'error', value: unknown): void {
    if (this.#extra !== null) this.#extra[field] = value
  }

  info (): TaskInfo {
    const { id, progress, result, error } = this.extra
    return { id: id as string, name: this.name, state: this.state, attempts: this.attempts, progress, result, error }
  }

  /** Calls a function in the task's async context. */
  run (fn: TaskFunction, args: unknown[]): unknown {
    return runInScope(this.#context as AsyncResource, fn, args)
  }

  /**
   * Drops the arguments and the request, which a kept handle must not keep alive. The function stays: reading its name for each task
   * would be slow.
   */
  release (): void {
    this.owner = null
    this.args = null
    this.#context = null
    const extra = this.#extra
    if (extra === null || extra.resolve === null) return
    extra.resolve(this.status === STORED && extra.remote !== null ? extra.remote.settled() : this.state)
    extra.resolve = null
  }
}
