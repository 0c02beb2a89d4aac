import type { TaskDefinition } from './definition'
import type { ScheduleInfo } from './schedule'
import type { CapturedTask, Stats, TaskHandle, TaskInfo, TaskOptions, TransactionTaskOptions } from './task'
import type { TransactionClient } from './transaction'

/** The payload as an argument, which is optional if the payload may be `undefined`. */
type PayloadArguments<Payload> = undefined extends Payload ? [payload?: Payload] : [payload: Payload]

/**
 * Refuses arguments for a function without parameters. Needed since TypeScript matches overloads by assignability, and a function
 * without parameters is assignable to one with parameters.
 */
type RefuseSurplus<Fn, Args> = Fn extends () => unknown ? Args extends [] ? unknown : never : unknown

/** The method `add`, of requests and of the application. Called without its object, as after `const { add } = tasks`, it throws FST_BGT_UNBOUND. */
export interface Add {
  /**
   * Adds a defined task with its payload, which is copied at once.
   * @throws FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE, FST_BGT_UNCLONABLE, FST_BGT_UNSUPPORTED,
   * FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<Payload> (task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): TaskHandle
  /**
   * Adds a function, sync or async, with exactly the arguments given.
   * @throws FST_BGT_INVALID_TASK, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<Args extends unknown[]> (fn: (...args: Args) => unknown, ...args: Args): TaskHandle
  /**
   * Adds an overloaded function: the arguments select the overload.
   * @throws FST_BGT_INVALID_TASK, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<const Args extends unknown[], Fn extends (...args: NoInfer<Args>) => unknown> (fn: Fn & RefuseSurplus<Fn, Args>, ...args: Args): TaskHandle
  /**
   * Adds a defined task with options, which override those of its definition.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Payload> (options: TaskOptions & { signal?: never }, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): TaskHandle
  /**
   * Adds a function that gets an `AbortSignal` after its arguments.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Args extends unknown[]> (options: TaskOptions & { signal: true, dedupe?: never }, fn: (...args: [...Args, AbortSignal]) => unknown, ...args: Args): TaskHandle
  /**
   * Adds an overloaded function with options.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<const Args extends unknown[], Fn extends (...args: NoInfer<Args>) => unknown> (options: TaskOptions & { signal?: false, dedupe?: never }, fn: Fn & RefuseSurplus<Fn, Args>, ...args: Args): TaskHandle
  /**
   * Adds a function with options.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Args extends unknown[]> (options: TaskOptions & { signal?: false, dedupe?: never }, fn: (...args: Args) => unknown, ...args: Args): TaskHandle

  /**
   * Stores a defined task through the user's own connection, in the transaction that is open there, on PostgreSQL or in the backend's file of
   * SQLite. The task runs once that commits, and never existed if it does not; the outcome of the request plays no part. Resolves with the
   * handle when the row is written. Until the commit `find` does not know the id, `cancel()` resolves with `false`, and `settled()` waits:
   * after a rollback, until the application has closed, with `'stored'`.
   *
   * A wrong argument throws at once; on SQLite everything does, and the row is written before the call returns, so that a synchronous
   * transaction is rolled back. Errors of the connection come through as they are.
   * @param client see {@link TransactionClient}
   * @throws FST_BGT_NOT_DURABLE for a function, a definition with `local: true`, and without a backend; FST_BGT_UNSUPPORTED for a backend on
   * Redis or RabbitMQ; FST_BGT_INVALID_CLIENT, FST_BGT_NO_TRANSACTION (on PostgreSQL as rejections); FST_BGT_STORE_FAILED before the
   * application has started; FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  addInTransaction<Payload> (client: TransactionClient, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): Promise<TaskHandle>
  /**
   * Adds in a transaction, with options, which override those of the definition. The `delay` counts from this call.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION, also for `runOn` and `key`
   */
  addInTransaction<Payload> (client: TransactionClient, options: TransactionTaskOptions, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): Promise<TaskHandle>
}

/** The collector of one request: `request.backgroundTasks`. */
export interface BackgroundTasks extends Add {
  /**
   * Starts the request's tasks now, and later ones as they are added, without waiting for the response: for sockets and event streams
   * that stay open for hours. Tasks that run on `failure` or by a predicate still wait for the outcome.
   */
  release (): void
  /**
   * Stores the request's tasks for a backend now, instead of with the reply. Resolves when the backend has them. Tasks that run on
   * `failure` or by a predicate still wait for the outcome.
   * @throws FST_BGT_STORE_FAILED (as a rejection)
   */
  flush (): Promise<void>
}

/** The tasks of the application: `app.backgroundTasks`. */
export interface AppBackgroundTasks extends Add {
  /**
   * Resolves when no task runs or waits to run, and no request with tasks is unfinished. Code that awaits the last task has one turn of
   * the event loop to add another. Does not wait for tasks with a `delay` that is not over.
   * @throws FST_BGT_IDLE_IN_HANDLER (as a rejection) if only requests without a reply remain: the caller may be one of their handlers, and would
   * wait for itself.
   */
  idle (): Promise<void>
  /**
   * Resolves when the backend has all tasks that were added here so far.
   * @throws FST_BGT_STORE_FAILED (as a rejection)
   */
  flush (): Promise<void>
  /** The number of tasks in each state, now. */
  stats (): Stats
  /**
   * The state of a task. Known are unsettled tasks, the last thousand settled ones, and stored tasks as long as their backend keeps them.
   * Resolves with `null` for an unknown id, and for a task of this process whose `id` was never read.
   */
  find (id: string): Promise<TaskInfo | null>
  /**
   * The schedules of the option `schedules`, in its order, with their next and last due times. With a backend these are the same in all
   * processes; the rule and the task are those that its workers have started last with.
   */
  schedules (): Promise<ScheduleInfo[]>
  /**
   * Adds a run of a schedule now, with its payload. Its due times stay as they are. Resolves with the handle, once the backend has the run;
   * with `null` if the last run has not settled, and they may not overlap.
   * @throws FST_BGT_UNKNOWN_SCHEDULE, FST_BGT_STORE_FAILED, FST_BGT_OVERLOADED, FST_BGT_CLOSED (as rejections)
   */
  runSchedule (id: string): Promise<TaskHandle | null>
  /** With `mode: 'capture'`, the tasks that would have run, in order. To reset, empty the array. */
  readonly captured: CapturedTask[]
  /**
   * An object that may be kept anywhere: its `add` adds to the current request, and outside of a request to the application.
   * @throws FST_BGT_NO_ASYNC_CONTEXT without the option `asyncContext`
   */
  readonly current: Add
}
