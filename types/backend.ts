import type { FastifyBaseLogger } from 'fastify'
import type { Carrier } from './messages'
import type { BackoffOptions, TaskInfo } from './task'

export type { TaskInfo } from './task'

/*
 * The interface of a store of tasks. The plugin does the rest for every backend: when a request's tasks are stored and which of them
 * (`runOn`), how the writes of concurrent requests are joined, how long a write may take, how an attempt runs (context, timeout, signal,
 * DI scope, log) and how the application closes. No type of a connection appears here.
 */

/** A task as it is stored: all fields are JSON. */
export interface StoredTask {
  /** A UUID. */
  id: string
  /** The name of the definition. */
  name: string
  /** The name in logs: the option `name`, else the name of the definition. */
  label: string
  /** JSON text; `null` for a task without a payload. */
  payload: string | null
  /** The id of the request that added the task; `null` for the application. */
  requestId: string | null
  /** Attempts in all. */
  attempts: number
  backoff: Required<BackoffOptions> | null
  /** Milliseconds until the first attempt, from the moment of storing. */
  delay: number
  /** Milliseconds for each attempt; 0 for no limit. */
  timeout: number
  /** While a task with this dedupe id is not settled, no second one is stored. `null` for none. */
  dedupe: string | null
  /** Data of an instrumentation, the trace context for instance; `null` without one. */
  carrier: Carrier | null
}

/** Defaults of a definition, for tasks that another program has stored without them. */
export interface TaskDefaults extends Pick<StoredTask, 'attempts' | 'backoff' | 'timeout'> {
  readonly singleArgument: boolean
}

/** One attempt of a stored task, handed to this process to run. */
export interface Delivery {
  readonly task: StoredTask
  /** 1 on the first attempt. A delivery that a crash interrupted does not count. */
  readonly attempt: number
  /** Aborts when the task is cancelled, or the backend has lost it to another worker. */
  readonly signal: AbortSignal
  /** Stores the task's progress: one write at a time; of several values the last one, before the task's end is stored. */
  progress (value: unknown): void
}

/**
 * The end of a delivery. The backend counts a failed attempt, and retries the task. It does not count `not attempted`: it hands the task
 * out again, here or to another worker, after `delay` ms.
 */
export type DeliveryEnd =
  | { state: 'completed', result: unknown }
  | { state: 'failed', error: unknown }
  | { state: 'cancelled' }
  | { state: 'not attempted', reason: Error, delay: number }

/** Runs one attempt. Does not reject. */
export type Deliver = (delivery: Delivery) => Promise<DeliveryEnd>

/** The worker threads of this process. */
export interface ThreadRoom {
  /** The names of the tasks that run on a thread. */
  readonly names: ReadonlySet<string>
  /** The number of threads for tasks of the backend: all but those that other tasks of this process have. */
  free (): number
}

/** A task as a backend lists it. */
export interface ListedTask extends Pick<StoredTask, 'id' | 'name' | 'label' | 'payload' | 'requestId' | 'attempts'> {
  /** `delayed`: waits for its first attempt; `retrying`: waits for another one. */
  state: 'running' | 'waiting' | 'delayed' | 'retrying' | 'failed' | 'completed' | 'cancelled'
  /** When the state began, in ms of `Date.now()`; `null` if unknown. */
  since: number | null
  /** When a `delayed` or `retrying` task may run, in ms of `Date.now()`; else `null`. */
  due: number | null
  /** Attempts begun. */
  attempt: number
  progress: unknown
  /** The error of the last attempt. */
  error: Error | undefined
}

/** The tasks of a backend: complete counts, and the tasks themselves, up to a limit for each state but `completed`. */
export interface TaskList {
  /** `failed` includes cancelled tasks if the backend keeps both together. */
  counts: { running: number, waiting: number, delayed: number, failed: number, completed: number }
  tasks: ListedTask[]
}

/** A list of a backend. `delayed` includes `retrying` tasks; `failed` may include `cancelled` ones. */
export type ListName = keyof TaskList['counts']

/** All that a backend knows of one task. Times are in ms of `Date.now()`, `null` if unknown. */
export interface TaskRecord extends ListedTask {
  added: number | null
  /** When the last attempt began. */
  started: number | null
  ended: number | null
  /** The errors of its failed attempts, oldest first, as far as the backend keeps them. */
  errors: Error[]
  /** The return value of a `completed` task. */
  result: unknown
}

/** When a schedule is due: by an expression in a time zone, or at each multiple of `every` since 1970. The other fields are `null`. */
export type ScheduleRule =
  | { readonly cron: string, readonly timezone: string, readonly every: null }
  | { readonly cron: null, readonly timezone: null, readonly every: number }

/** A schedule as a backend keeps it: all fields are JSON. */
export interface StoredSchedule {
  /** At most 100 letters, digits and `.`, `_`, `-`, `/`. */
  readonly id: string
  /** See `lib/shared/rule.ts`, which finds the due times. */
  readonly rule: ScheduleRule
  /** Whether a run may begin while the last one has not settled. If not, the template has the dedupe id `$schedule:` and the id, which `add` refuses. */
  readonly overlap: boolean
  /** The template of the runs: each has a UUID of its own. `requestId` and `carrier` are `null`. */
  readonly task: Omit<StoredTask, 'id'>
}

/** What a backend knows of a schedule. Times are in ms of `Date.now()`. */
export interface ScheduleState {
  readonly id: string
  /** The name of the runs' definition. */
  readonly task: string
  readonly rule: ScheduleRule
  /** The next due time; `null` if there is none. */
  readonly next: number | null
  /** The last due time that has come, whether its run was stored or skipped; `null` before the first. */
  readonly last: number | null
  /** The id of the last run that was stored; `null` before the first. */
  readonly lastId: string | null
  /** Runs that were skipped because the last one had not settled. */
  readonly skipped: number
}

/** A store of tasks. Made by a factory of this package, used by one registration of the plugin at a time. */
export interface TaskBackend {
  /** The name in logs and errors. */
  readonly name: string
  /**
   * Connects, and prepares the store. A rejection fails the application's start.
   * @param log the logger for lines that are not about a task
   * @param logOf the logger for lines about a task, by its `requestId`
   * @param timeout `storeTimeout`, in ms: a connection without an answer for so long must be closed and made anew
   * @param definitions the application's definitions, by name
   */
  start (log: FastifyBaseLogger, logOf: LogOf, timeout: number, definitions: ReadonlyMap<string, TaskDefaults>): Promise<void>
  /**
   * Unsupported options of `add`, each with the reason; `add` throws FST_BGT_UNSUPPORTED for them. `transaction`: why there is no
   * `storeInTransaction`. `schedules`: why there is no `schedule`.
   */
  readonly refuses?: { readonly dedupe?: string, readonly transaction?: string, readonly schedules?: string }
  /**
   * Why `cancel` may resolve with `false` for a task that still waits, for the log. Optional: without it, `false` means that the task has
   * begun.
   */
  readonly keepsWaiting?: string
  /**
   * The most concurrent calls of `store`, or `Infinity`. A server that answers each task by itself is fastest with many calls. A store
   * that commits to a disk is fastest with few, each with all tasks that have gathered. Where there are several, at most one of them has
   * batches with dedupe ids, and no others.
   */
  readonly writes: number
  /**
   * Stores batches of tasks, each whole or not at all. Resolves when a crash of any process can no longer lose them. The result has, for
   * each batch, the error that prevented storing it, or the ids of its tasks. The id of a task that `dedupe` has dropped is the id of the
   * task that was there before. Rejects if no batch is stored.
   */
  store (batches: StoredTask[][]): Promise<Array<string[] | Error>>
  /**
   * Stores a task by a connection of the user's, in the transaction that is open there: the task exists once that commits, and never if
   * it does not. Leaves the session's settings as they are. Returns the task's id, or that of the task with its dedupe id. A store
   * with a synchronous client returns and throws at once, so that a synchronous transaction is rolled back; another one returns a
   * promise. Errors of the connection stay as they are. Optional: without it `addInTransaction` throws FST_BGT_UNSUPPORTED.
   * @throws FST_BGT_INVALID_CLIENT if it is no client of this store's database, FST_BGT_NO_TRANSACTION if none is open
   */
  storeInTransaction? (client: unknown, task: StoredTask): string | Promise<string>
  /** Removes credentials from an error of the backend that is about to be logged or thrown. Optional. */
  redact? (error: unknown): void
  /**
   * Begins to hand out tasks: at most `concurrency` at once, and no more tasks for threads than there are free threads. Other tasks are
   * left to other workers.
   */
  work (concurrency: number, deliver: Deliver, threads: ThreadRoom): Promise<void>
  /** Hands out no more tasks, and stores no more runs of schedules. */
  pause (): Promise<void>
  /** The task's state; `null` for an unknown id. */
  find (id: string): Promise<TaskInfo | null>
  /**
   * Cancels a task. Resolves with `true` if the task will not run any more, or runs in this process and its delivery's signal has
   * aborted; with `false` if it has ended, runs in another process, or cannot be taken out (`keepsWaiting`).
   */
  cancel (id: string): Promise<boolean>
  /** Hands out tasks, and stores runs, again, after `pause`. Optional. */
  resume? (): Promise<void>
  /** Lists the tasks that run, wait or have failed, at most `limit` of each. Optional. */
  list? (limit: number): Promise<TaskList>
  /**
   * A part of one list: at most `limit` tasks after the first `offset`; fewer if some have left the list. Optional.
   * @param newestFirst the order, by the time when a task came into the list
   */
  page? (list: ListName, offset: number, limit: number, newestFirst: boolean): Promise<ListedTask[]>
  /** The full record of a task; `null` for an unknown id. Optional. */
  read? (id: string): Promise<TaskRecord | null>
  /** Removes a failed task for good. Resolves with `false` if the task has not failed. Optional. */
  remove? (id: string): Promise<boolean>
  /**
   * Runs a failed task again, with the same id and all its attempts; the task gets its dedupe id back. Resolves with `false` if the task
   * has not failed, or another task has its dedupe id. Optional.
   */
  retry? (id: string): Promise<boolean>
  /**
   * Keeps schedules, and stores the run of each due time once, however many processes do so, until `pause` or `close`. Called once, after
   * `work`.
   *
   * - A schedule that the store does not know is due for the first time after now. One with another rule than the stored one: likewise.
   *   The rule of the last call counts, also for the processes that were started before. One with the stored rule keeps its next due
   *   time; if that is past, one run is stored at once, for the latest due time. Template and `overlap` replace the stored ones.
   * - A stored schedule that is not among these is removed, with a line in the log, if it was written by the same application: one that
   *   has the name of a task in common with this one.
   * - A run whose template has a dedupe id that is taken is skipped, counted, and logged; its due time has come.
   *
   * Optional: without it, the option `schedules` is refused with FST_BGT_UNSUPPORTED.
   * @param tasks the names of the application's tasks
   */
  schedule? (schedules: readonly StoredSchedule[], tasks: readonly string[]): Promise<void>
  /** The state of the schedules with these ids, in any order, without those that the store does not know. There where `schedule` is. */
  schedules? (ids: readonly string[]): Promise<ScheduleState[]>
  /**
   * Disconnects, once the deliveries under way have ended, or after `ms`. Deliveries that have not ended by then return to the store, for
   * another worker. Also called after `start` or `work` has failed.
   */
  close (ms: number): Promise<void>
}

/** The logger for a request's tasks, by the request's id: the request may be another process's. `null`: the application's logger. */
export type LogOf = (requestId: string | null) => FastifyBaseLogger
