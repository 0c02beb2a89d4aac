import { AsyncResource, executionAsyncId } from 'node:async_hooks'
import { randomUUID } from 'node:crypto'
import type { Attempt } from './attempt'
import type { Line } from './line'
import type { KeptPayload } from './payload'
import type { Store } from './store'
import type { TaskInfo } from './task-index'
import type { TaskSpec } from './task-options'

/** What runs: a user's function, or the handler of a defined task. */
export type TaskFunction = (...args: any[]) => unknown

/**
 * The states of a task, in the order of its life. The last seven are final: every accepted task ends in exactly one.
 * They are small integers inside, because each is also an index into the ledger's counts.
 */
export const STATES = [
  'collecting', 'pending', 'running',
  'completed', 'failed', 'dropped', 'cancelled', 'replaced', 'captured', 'stored'
] as const

/** See {@link TaskHandle.state}. */
export type TaskState = typeof STATES[number]

export const COLLECTING = 0
export const PENDING = 1
export const RUNNING = 2
export const COMPLETED = 3
export const FAILED = 4
export const DROPPED = 5
export const CANCELLED = 6
export const REPLACED = 7
export const CAPTURED = 8
export const STORED = 9

/** How often, in ms, a backend is asked whether a task has settled. */
const SETTLED_INTERVAL = 200

/** What `add` returns: a view of one task, and the means to call it off. */
export interface TaskHandle {
  /** A UUID, made when it is first read; the same on every attempt. */
  readonly id: string
  /** The option `name`, else the name of the definition or of the function, else `'anonymous'`. */
  readonly name: string
  /**
   * - `collecting`: the response has not left yet;
   * - `pending`: in line, or waiting for its delay or its next attempt;
   * - `running`: an attempt is under way;
   * - `completed`, `failed` (its last attempt has), `dropped` (`runOn` was not met, a failed task stopped the rest,
   *   or the application closed), `cancelled`, `replaced` (a later task of the request has its `key`),
   *   `captured` (`mode: 'capture'`): final;
   * - `stored`: the backend has it, which is the end of it here; `settled()` and `find` follow it there.
   */
  readonly state: TaskState
  /**
   * Calls the task off. Resolves with `true` when it is cancelled: it had not started or waited for its next attempt,
   * or it runs and listens to a signal (a defined task, or the option `signal`), which then aborts. Resolves with
   * `false` when it has ended already, or runs as a function that nothing can stop.
   */
  cancel (): Promise<boolean>
  /**
   * Resolves with the final state, never rejects. The promise is made when this is first called. For a task that the
   * backend has, it is asked from time to time; if it has forgotten the task, or the application has closed, the state
   * is `stored`.
   */
  settled (): Promise<TaskState>
}

/** What only some tasks need, kept apart so that the others stay small. */
interface TaskExtra {
  id: string | null
  settled: Promise<TaskState> | null
  resolve: ((state: TaskState | Promise<TaskState>) => void) | null
  /** Attempts begun. */
  attempts: number
  /** The attempt under way, if it is one that can be stopped. */
  attempt: Attempt | null
  /** Runs until the delay or the backoff is over. */
  timer: NodeJS.Timeout | null
  /** When the timer ends, in ms of `Date.now()`. */
  due: number
  /** What has the task. */
  store: Store | null
  /** Of a task that goes there: it is still asked for when the request has gone. */
  requestId: string | null
  /** Its way there, from when it is on it. */
  way: Promise<unknown> | null
  /** It has been called off there. */
  cancelled: boolean
  progress: unknown
  result: unknown
  error: unknown
}

/** A class may have any static member `name`, or a getter that throws. */
function nameOf (fn: { name: unknown }): string {
  try {
    if (typeof fn.name === 'string' && fn.name !== '') return fn.name
  } catch {}
  return 'anonymous'
}

/** One accepted task. It is its own handle. */
export class Task implements TaskHandle {
  /** The next task of its line. */
  next: Task | null = null
  /** Its line, until it is settled. */
  line: Line | null
  readonly fn: TaskFunction
  args: unknown[] | null
  readonly spec: TaskSpec | null
  /** The index of its state in {@link STATES}. */
  status = COLLECTING
  /** When it came into that state, by the clock of the ledger's observer; 0 without one. */
  since = 0
  /**
   * The async context of the place that called `add`. A new one per task: a shared one would be wrong inside `als.run`. The id
   * is what Node, but for places inside itself, would take in twice the time or more (Node 20 to 24).
   */
  #context: AsyncResource | null = new AsyncResource('fastify-background-tasks.task', executionAsyncId())
  #extra: TaskExtra | null = null

  constructor (line: Line, fn: TaskFunction, args: unknown[], spec: TaskSpec | null) {
    this.line = line
    this.fn = fn
    this.args = args
    this.spec = spec
  }

  get id (): string {
    const id = this.ownId
    this.line?.runtime.index.add(id, this)
    return id
  }

  /** As `id`, but nobody will ask `find` for it: log lines have it too, and must not keep what a task has thrown. */
  get ownId (): string {
    const extra = this.extra
    extra.id ??= randomUUID()
    return extra.id
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
    // Only where it will be can it be called off: a worker may have it before we know that it is there.
    if (this.#extra !== null && this.#extra.way !== null) await this.#extra.way.catch(() => {})
    if (this.line !== null) return this.line.cancel(this)
    if (this.status !== STORED) return false
    const { extra } = this
    extra.cancelled = await extra.store?.cancel(this.id, this.name, extra.requestId) === true
    return extra.cancelled
  }

  settled (): Promise<TaskState> {
    const extra = this.extra
    if (this.status === STORED) extra.settled ??= this.#settledInBackend()
    else if (this.isSettled) return Promise.resolve(this.state)
    extra.settled ??= new Promise(resolve => { extra.resolve = resolve })
    return extra.settled
  }

  get extra (): TaskExtra {
    this.#extra ??= { id: null, settled: null, resolve: null, attempts: 0, attempt: null, timer: null, due: 0, store: null, requestId: null, way: null, cancelled: false, progress: undefined, result: undefined, error: undefined }
    return this.#extra
  }

  /** The attempts begun so far. */
  get attempts (): number {
    // A function without options is not counted: it has one attempt, and has begun it when it is no longer waiting.
    if (this.spec === null) return this.status >= RUNNING && this.status <= FAILED ? 1 : 0
    return this.#extra === null ? 0 : this.#extra.attempts
  }

  /** The payload of a defined task. */
  get payload (): KeptPayload {
    return (this.args as [KeptPayload])[0]
  }

  /** What is noted here can be seen by `find`, and only a task whose id is known can be found. */
  note (field: 'progress' | 'result' | 'error', value: unknown): void {
    if (this.#extra !== null) this.#extra[field] = value
  }

  info (): TaskInfo {
    const { id, progress, result, error } = this.extra
    return { id: id as string, name: this.name, state: this.state, attempts: this.attempts, progress, result, error }
  }

  /** Calls a function in the task's async context. */
  run (fn: TaskFunction, args: unknown[]): unknown {
    const context = this.#context as AsyncResource
    // A spread costs more than it looks, once a task.
    switch (args.length) {
      case 0: return context.runInAsyncScope(fn)
      case 1: return context.runInAsyncScope(fn, undefined, args[0])
      case 2: return context.runInAsyncScope(fn, undefined, args[0], args[1])
      case 3: return context.runInAsyncScope(fn, undefined, args[0], args[1], args[2])
      default: return context.runInAsyncScope(fn, undefined, ...args)
    }
  }

  async #settledInBackend (): Promise<TaskState> {
    const { store } = this.extra
    // eslint-disable-next-line no-unmodified-loop-condition -- the store closes meanwhile
    while (store !== null && !store.closed) {
      const info = await store.find(this.id).catch(() => undefined)
      if (info === null) break
      if (info !== undefined && STATES.indexOf(info.state) > RUNNING) return info.state
      await new Promise(resolve => { setTimeout(resolve, SETTLED_INTERVAL) })
    }
    return this.extra.cancelled ? 'cancelled' : this.state
  }

  /**
   * The end: a handle that a user keeps must keep neither arguments nor the request alive. The function stays, because
   * reading its name on every task, for a handle that hardly anybody keeps, would cost more than anything else here.
   */
  release (): void {
    const line = this.line as Line
    const extra = this.#extra
    this.line = null
    this.args = null
    this.#context = null
    if (extra !== null) {
      extra.attempt = null
      if (extra.id !== null) line.runtime.index.settle(extra.id, this.info())
      extra.resolve?.(this.status === STORED ? this.#settledInBackend() : this.state)
      extra.resolve = null
    }
  }
}
