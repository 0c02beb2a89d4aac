/** See {@link TaskHandle.state}. */
export type TaskState =
  'collecting' | 'pending' | 'running' |
  'completed' | 'failed' | 'dropped' | 'cancelled' | 'replaced' | 'captured' | 'stored'

/** The handle of a task, returned by `add`: shows its state, and can cancel it. */
export interface TaskHandle {
  /** A UUID, made when first read; the same on every attempt. */
  readonly id: string
  /** The option `name`, else the name of the definition or of the function, else `'anonymous'`. */
  readonly name: string
  /**
   * - `collecting`: waits for the end of the response;
   * - `pending`: waits for its turn, its delay or its next attempt;
   * - `running`: an attempt is under way;
   * - `completed`, `failed` (the last attempt failed), `dropped` (`runOn` was not met, its `dedupe` id was taken, a failed task stopped
   *   the later ones, or the application closed), `cancelled`, `replaced` (a later task of the request has its `key`),
   *   `captured` (`mode: 'capture'`): final;
   * - `stored`: final in this process: the backend has the task. `settled()` and `find` follow it there.
   */
  readonly state: TaskState
  /**
   * Cancels the task. Resolves with `true` if the task is cancelled: it had not started, waited for its next attempt, or runs with a
   * signal (a defined task, or the option `signal`), which aborts. Resolves with `false` if the task has ended, or runs as a function
   * without a signal.
   */
  cancel (): Promise<boolean>
  /**
   * Resolves with the final state, never rejects. A backend is asked for a stored task every 200 ms. The state is `stored` if the backend
   * has forgotten the task, or the application has closed.
   */
  settled (): Promise<TaskState>
}

/** The options of one `add`, and the defaults that a definition carries. */
export interface TaskOptions {
  /**
   * The name in logs, errors and the handle. At most 1,024 bytes in UTF-8, as `key` and `dedupe`.
   * @default the function's name
   */
  name?: string
  /**
   * The outcome of the request on which the task runs; otherwise the task is dropped, visibly. `success`: no error came after the `add`;
   * `failure`: the request failed; `always`: any outcome; or a predicate of the outcome. A task added outside a request always runs. With
   * a backend a predicate may be called more than once: before the reply is sent, and when it is over.
   * @default 'success'
   */
  runOn?: RunOn
  /**
   * Milliseconds for one attempt; 0 for no limit. After that the signal aborts, the attempt fails with `FST_BGT_TIMEOUT` and the next
   * task starts. A timeout cannot interrupt a function that blocks the event loop.
   * @default 0
   */
  timeout?: number
  /**
   * The most attempts, the first included: 1 to 2^31 − 1.
   * @default 1
   */
  attempts?: number
  /** The wait between attempts; a number is a fixed wait in milliseconds. Without it there is no wait. */
  backoff?: number | BackoffOptions
  /**
   * Milliseconds between the end of the response and the first attempt, at most ten years. Only a backend keeps a delayed task when the
   * process ends.
   * @default 0
   */
  delay?: number
  /**
   * Within one request, a later task with the same key replaces one that has not started. No effect outside a request.
   */
  key?: string
  /**
   * While a task with this dedupe id is not settled, another one is dropped: across requests, and with a backend across processes. For
   * defined tasks only.
   */
  dedupe?: string
  /**
   * Appends an `AbortSignal` to the arguments of a plain function. The signal aborts at the timeout, at `cancel()` and when the
   * application's close runs out of time.
   * @default false
   */
  signal?: boolean
}

/** The options of one `addInTransaction`: the commit alone decides, and no task replaces another. */
export interface TransactionTaskOptions extends Omit<TaskOptions, 'runOn' | 'key' | 'signal'> {
  runOn?: never
  key?: never
  signal?: never
}

/** The options of one `ctx.add`, which belongs to no request: no outcome decides, and no task replaces another. */
export interface ContextTaskOptions extends Omit<TaskOptions, 'runOn' | 'key'> {
  runOn?: never
  key?: never
}

/** The wait of a failed task before its next attempt, as in BullMQ: https://docs.bullmq.io/guide/retrying-failing-jobs. */
export interface BackoffOptions {
  /** `fixed`: always `delay`. `exponential`: `delay` × 2^(attempts made − 1). */
  type: 'fixed' | 'exponential'
  /** Milliseconds. */
  delay: number
  /**
   * The random share of the wait, 0 to 1: with 0.5 the wait is between half of the full wait and the full wait.
   * @default 0
   */
  jitter?: number
}

/** See `TaskOptions.runOn`. */
export type RunOn = 'success' | 'failure' | 'always' | ((outcome: Outcome) => boolean)

/** The end of a request, as a `runOn` predicate gets it. */
export interface Outcome {
  /** The status of the reply. If the client left before the reply was sent: the status that it would have had. */
  readonly statusCode: number
  /** The first error that reached Fastify's `onError` hooks; else `null`. */
  readonly error: Error | null
  /** Whether the request counts as failed: by that error, or by the option `outcome`. */
  readonly failed: boolean
  /**
   * Whether the client left, or a stream broke, before the response was complete. A complete response in Node's buffers counts as sent,
   * as for Node and for the `onResponse` hook.
   */
  readonly aborted: boolean
}

/** The state of a task, returned by `find`. Plain objects and arrays in it are copies, and may be changed. */
export interface TaskInfo {
  id: string
  name: string
  state: TaskState
  /** Attempts begun. */
  attempts: number
  /** The last value of `ctx.progress`; `undefined` without one. */
  progress: unknown
  /** The return value of a `completed` task; else `undefined`. */
  result: unknown
  /** The error of the last attempt of a `failed` task. */
  error: unknown
}

/**
 * The number of tasks in each state. Their sum is `accepted`. `retried` counts attempts, and `abandoned` counts functions, of tasks that
 * are counted by their state too.
 */
export interface Stats extends Record<TaskState, number> {
  /** Tasks that `add` has accepted, and deliveries of the backend, since the start: the sum of all states. */
  accepted: number
  /** Failed attempts that another one follows, since the start. */
  retried: number
  /** Abandoned functions that still run: their attempt has timed out, or was cancelled, or the application has closed. */
  abandoned: number
}

/** A task that would have run, as `mode: 'capture'` records it. */
export interface CapturedTask {
  name: string
  /** The arguments of a plain function; empty for a defined task. */
  args: unknown[]
  /** A copy of the payload of a defined task, as its handler would get it; `undefined` for a plain function. */
  payload: unknown
  /** The id of the request; `null` for a task that the application added. */
  requestId: string | null
}
