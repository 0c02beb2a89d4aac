/*
 * The server's messages to the page: plain JSON, bounded in size. The page is compiled from these types too, so nothing is imported
 * here. Times are ms of `Date.now()` by the server's clock.
 */

export type ViewState = 'collecting' | 'waiting' | 'delayed' | 'retrying' | 'running' | 'failed' | 'completed' | 'cancelled' | 'dropped'

/** The lists of the page. `later` has the tasks that are delayed, or to be tried again. */
export type ListName = 'running' | 'waiting' | 'later' | 'failed' | 'completed'

export interface ProgressView {
  /** 0 to 100; `null` if the progress is no share of a whole. */
  percent: number | null
  text: string
}

/** A task in a list. */
export interface TaskView {
  id: string
  name: string
  requestId: string | null
  state: ViewState
  /** The time of the last change of state; `null` if it is not known. */
  since: number | null
  /** The time at which a `delayed` or `retrying` task may run. */
  due: number | null
  attempt: number
  attempts: number
  progress: ProgressView | null
  /** The last sign of life of a running task: its start, or its last progress. */
  silentSince: number | null
  /** The reason of the state; empty if there is none. */
  why: string
  /** Tasks of the same request that wait for this one. */
  behind: number
  /** Whether the backend has the task. */
  stored: boolean
  /** Whether this process has the task. */
  here: boolean
  cancellable: boolean
  /** Whether the task can be run again. */
  again: boolean
  /** The first line of the last attempt's error. */
  error: string | null
}

export interface AttemptError {
  /** `null` if the backend does not keep the time. */
  at: number | null
  error: string
  stack: string
}

/** The details of one task. */
export interface TaskDetails extends TaskView {
  added: number | null
  started: number | null
  ended: number | null
  /** The errors of the attempts, the oldest first, as far as they are kept. */
  errors: AttemptError[]
  /** The folder of the plugin's code, whose frames are folded; empty if it is not known. */
  folder: string
  /** Only with the option `payload`. JSON has line breaks. */
  payload?: string
  result?: string
}

/** Failed tasks with the same name and, but for numbers, the same error. */
export interface FailureGroup {
  id: string
  name: string
  /** The error of the newest task. */
  error: string
  count: number
  /** The time at which the newest task failed. */
  last: number | null
  /** The tasks that can be run again. */
  again: number
  dismissible: boolean
}

export interface NameCount {
  name: string
  count: number
}

/** The events of one second. */
export interface SecondView {
  /** Seconds since 1970. */
  at: number
  completed: number
  failed: number
  /** The mean wait of the attempts that began, in ms; `null` if none began. */
  mean: number | null
  /** The longest wait by the end of the second, in ms, of tasks that began and of those that still waited. */
  longest: number
}

/** Exact counts, not of the shown tasks but of all. */
export type Totals = Record<'running' | 'waiting' | 'later' | 'failed', number>

export interface BackendView {
  name: string
  /** `null` before the first answer, and for a backend without lists. */
  counts: Totals & { completed: number } | null
  /** The error of the last read. */
  error: string | null
  /** Whether its lists have pages; if not, only the first hundred tasks of each state can be seen. */
  pages: boolean
}

/** The first screen, and the figures of all others. */
export interface Overview {
  now: number
  /** Whether `seconds` are all there are; if not, they follow the earlier ones. */
  full: boolean
  stuckAfter: number
  /** The places of this process (`null`: no limit), those that are taken, and the tasks that wait for one. */
  places: { limit: number | null, taken: number, queued: number }
  /** Of this process and of all that share its backend. */
  totals: Totals
  /** `null` without a backend. */
  backend: BackendView | null
  /** Whether this process is paused, and can be; `null` if it never takes tasks of the backend. */
  worker: { paused: boolean, pausable: boolean } | null
  /** Tasks without a sign of life for `stuckAfter` ms: the number of known ones, and the longest silent one. */
  stuck: { count: number, first: TaskView | null }
  /** The task that has been waiting longest. */
  oldest: TaskView | null
  /** Tasks that will be tried again: the number of known ones, and the next one. */
  retrying: { count: number, next: TaskView | null }
  /** Some running tasks, the longest running first. */
  longest: TaskView[]
  /** Waiting tasks by name, of the `of` tasks that wait longest. `more` names are left out. */
  waiting: { groups: NameCount[], of: number, more: number }
  /** Failed tasks by group, the newest first, of the newest `of` tasks. `more` groups are left out. */
  failures: { groups: FailureGroup[], of: number, more: number }
  /** The number of schedules of the application. */
  schedules: number
  /** The seconds that are over since the last look. */
  seconds: SecondView[]
}

/** A schedule of the application. */
export interface ScheduleView {
  id: string
  /** The name of the task. */
  task: string
  /** The expression and its time zone; `null` with `every`. */
  cron: string | null
  timezone: string | null
  /** Milliseconds; `null` with `cron`. */
  every: number | null
  /** The next and the last due time; `null` if there is none. */
  next: number | null
  last: number | null
  /** The id of the last run; `null` before the first. */
  lastId: string | null
  /** Runs that were skipped because the last one had not settled. */
  skipped: number
}

/** One page of a list. */
export interface TaskPage {
  tasks: TaskView[]
  /** The offset of the next page; `null` at the end. */
  next: number | null
  /** The tasks that were searched for this page. */
  looked: number
  /** The reason why the list is not whole; empty if it is. */
  note: string
}

/** The outcome of an action on one task. */
export interface ActionResult {
  done: boolean
  /** The id of the new task, if this process runs a failed one again, or a schedule was run. */
  id?: string
}

/** The outcome of an action on a group. */
export interface GroupResult {
  done: number
  /** Where the next call goes on; `null` if nothing is left. */
  next: GroupCursor | null
}

/** A place among the failed tasks of a backend. */
export interface GroupCursor {
  /** The newest failure at the first call, in ms. What fails later is not acted on: a task that was run again may fail again. */
  before: number
  /** How many tasks may be acted on: as many as had failed then. So it ends, whatever the clocks say. */
  left: number
  /** Tasks that this pass through the list has passed over, the oldest first. */
  offset: number
  /** Tasks that this pass has acted on. */
  acted: number
}
