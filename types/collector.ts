import type { Add } from './definition'
import type { ScheduleInfo } from './schedule'
import type { CapturedTask, Stats, TaskHandle, TaskInfo } from './task'

export type { Add } from './definition'

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
   * Resolves with `null` for an unknown id, and for a task of this process that has not failed and whose `id` was never read.
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
