import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ResourceLimits } from 'node:worker_threads'
import type { TaskBackend } from './backend'
import type { TaskDefinition } from './definition'
import type { Schedule } from './schedule'
import type { TaskHandle } from './task'

/** The options of the plugin. All are checked once, at registration. */
export interface BackgroundTasksOptions {
  /**
   * The definitions of all defined tasks that this application adds or runs.
   * @default []
   */
  tasks?: readonly TaskDefinition<any, any>[]
  /**
   * The effect of a failed task on the later tasks of its request. `continue`: none. `stop`: they are dropped, as in Starlette, and they
   * wait while an earlier task waits for its next attempt.
   * @default 'continue'
   */
  onFailure?: 'continue' | 'stop'
  /** Called after the last attempt of a task has failed and was logged. `request` is `null` for a task added outside a request. */
  onError?: (error: unknown, task: TaskHandle, request: FastifyRequest | null) => unknown
  /**
   * Decides whether a reply without an error counts as a failure: for frameworks that turn errors into replies, as NestJS, tRPC and
   * GraphQL servers do. `'failure'` has the effect of an error: of the tasks added so far, those that run on `success` are dropped, and
   * those that run on `failure` run. `'success'` and `undefined` change nothing. Called for requests with tasks: before their tasks are
   * stored in a backend, and when the reply is over; not after an error, nor again after `'failure'`. An exception is logged, and counts
   * as `undefined`.
   * @default none: only an error that reaches Fastify's `onError` hooks is a failure
   */
  outcome?: (request: FastifyRequest, reply: FastifyReply) => 'success' | 'failure' | undefined
  /**
   * The most tasks that run at once in the whole application: a whole number from 1 on, or `Infinity`.
   * @default Infinity
   */
  concurrency?: number
  /**
   * The most unsettled tasks: a whole number from 1 on, or `Infinity`. Beyond, `add` throws `FST_BGT_OVERLOADED` (503).
   * @default 100_000
   */
  maxPending?: number
  /**
   * Milliseconds to wait for the handler of a client that disconnected before anything was sent. The tasks start when the handler has
   * ended, or after this time. A DI scope waits as long for a handler that outlasts its tasks.
   * @default 30_000
   */
  abortGrace?: number
  /**
   * Milliseconds that `app.close()` waits for the tasks, after the server has closed.
   * @default 5_000
   */
  closeTimeout?: number
  /**
   * Stores defined tasks outside this process, so that they outlive it and other processes can run them. Plain functions, and
   * definitions with `local: true`, stay in this process.
   * @default none: all tasks stay in this process
   */
  backend?: TaskBackend
  /**
   * The most tasks of the backend that this process runs at once, a whole number from 1 on; `false` if it runs none.
   * @default { concurrency: 10 }
   */
  worker?: { concurrency?: number } | false
  /**
   * Milliseconds for the backend to store a request's tasks. After that the request is answered with 503 `FST_BGT_STORE_FAILED`.
   * @default 5_000
   */
  storeTimeout?: number
  /**
   * Tasks that recur, by an id of at most 100 letters, digits and `.`, `_`, `-`, `/`. With a backend each due time runs once, however many
   * processes there are, and the runs are stored by those with a `worker`; without one, and for tasks with `local: true`, it runs once in
   * each process.
   * @default {}
   */
  schedules?: Readonly<Record<string, Schedule>>
  /** The worker threads for tasks that are defined by a file. */
  threads?: ThreadOptions
  /**
   * `capture` is for tests: tasks that would have run are recorded in `app.backgroundTasks.captured` instead.
   * @default 'run'
   */
  mode?: 'run' | 'capture'
  /**
   * Tracks the current request with `AsyncLocalStorage`, for `app.backgroundTasks.current`. With `@fastify/awilix`, the root container
   * resolves `backgroundTasks` to that object, which a singleton may hold, and request scopes have no registration of their own.
   * @default false
   */
  asyncContext?: boolean
  /**
   * Whether to dispose the DI scope of a request whose client has left, or that adds tasks after its response, once the tasks have
   * settled: `@fastify/awilix` does not dispose it then. Set it to `false` if `disposeOnResponse` of `@fastify/awilix` is `false`.
   * @default true
   */
  disposeScopes?: boolean
}

/** The worker threads for tasks that are defined by a file. */
export interface ThreadOptions {
  /**
   * The most threads, a whole number from 1 on. At the start one more may load the modules, if tasks occupy all of them.
   * @default one less than the cores, at least one
   */
  max?: number
  /**
   * Milliseconds without a task after which a thread ends.
   * @default 30_000
   */
  idleTimeout?: number
  /**
   * The most tasks added in this process that wait for a thread. Beyond, `add` throws `FST_BGT_OVERLOADED` (503).
   * @default Infinity: only `maxPending` limits them
   */
  maxQueue?: number
  /** The `resourceLimits` of each `Worker` of `node:worker_threads`; `maxOldGenerationSizeMb` is at least 4. */
  resourceLimits?: ResourceLimits
}
