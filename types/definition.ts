import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { TaskOptions } from './task'

/** Marks a definition; only `defineTask` makes one. */
declare const kDefined: unique symbol

/** A value that moves to a thread instead of being copied. */
export type Transferable = ArrayBufferLike | ArrayBufferView

/** The function of a defined task. */
export type TaskHandler<Payload, Result> = (payload: Payload, ctx: TaskContext) => Result

/** The options of a definition: defaults for each `add`. No `signal`: the context always has one. */
export interface DefinitionOptions extends Omit<TaskOptions, 'name' | 'signal' | 'dedupe'> {
  /**
   * Runs the task in the process that adds it, instead of storing it in the backend.
   * @default false
   */
  local?: boolean
  /**
   * For the Celery backend: `true` sends the payload as the only positional argument. With `false`, an object becomes the keyword
   * arguments, an array the positional arguments, and any other value the only positional argument.
   * @default false
   */
  singleArgument?: boolean
}

/** The options of a definition that runs on a thread. */
export interface ThreadDefinitionOptions<Payload> extends DefinitionOptions {
  /**
   * With `local: true`: returns the parts of the payload that move to the thread instead of being copied. Parts are ArrayBuffers, and
   * typed arrays and Buffers that fill their ArrayBuffer. `add` empties them. With several attempts, each but the last gets a copy.
   */
  transfer?: (payload: Payload) => readonly Transferable[]
}

/**
 * A named task, to be passed to `add` with its payload. Called as a function, it calls the handler directly: for unit tests, and for code
 * that needs the result now.
 */
export interface TaskDefinition<Payload = any, Result = unknown> {
  (payload: Payload, ctx?: Partial<TaskContext>): Result
  /** The name given to `defineTask`. */
  readonly name: string
  /** @internal */
  readonly [kDefined]: true
}

/** The request's DI scope as `@fastify/awilix` types it; `undefined` if its types are not loaded. */
export type DiScope = FastifyRequest extends { diScope: infer Scope } ? Scope : undefined

/** The second argument of a defined task's handler. */
export interface TaskContext {
  /** A UUID, the same on every attempt: usable as an idempotency key. */
  readonly id: string
  /** The name of the definition, or the option `name` of the `add`. */
  readonly name: string
  /** 1 on the first attempt. */
  readonly attempt: number
  /** Aborts at the timeout, at `cancel()` and when the application's close runs out of time. */
  readonly signal: AbortSignal
  /** A child of the request's logger, or of the application's, with the field `task`. Made when first read. */
  readonly log: FastifyBaseLogger
  /** The id of the request that added the task; `null` if the application added it. */
  readonly requestId: string | null
  /**
   * A DI scope for this attempt alone, made when first read and disposed when the handler has ended. Its `backgroundTasks` is the
   * collector that the task was added to. `undefined` without `@fastify/awilix`.
   * @throws FST_BGT_NO_DI_SCOPE on a worker thread
   */
  readonly diScope: DiScope
  /**
   * Reports the task's progress: any JSON value, of at most 16,777,216 characters of JSON with a backend. `find` shows the last one. May be
   * called often: a backend gets one write at a time, with the last value, and the last of all before the task's end.
   */
  progress (value: unknown): void
}
