import type { FastifyBaseLogger } from 'fastify'
import { createWarning } from 'process-warning'
import type { Delivery } from '../../types/backend'
import type { BackgroundTasksOptions } from '../../types/options'
import { stackOf, warn, writeLog } from '../shared/write-log'
import type { Origin } from '../task/origin'
import type { Task } from '../task/task'

/** Emitted once per process: one warning is enough to find the cause. */
export const lateAddWarning = createWarning({
  name: 'FastifyBackgroundTasksWarning',
  code: 'FST_BGT_LATE_ADD',
  message: "The background task '%s' was added to a request whose tasks had all run; it was started at once. " +
    'Likely causes: a promise that the handler does not await, a handler that outlived its timeout or its client, ' +
    'or a singleton that keeps the collector of the first request it was resolved in. ' +
    "For the last, set the option 'asyncContext: true'."
})

/** A schedule, for a log line. */
interface NamedSchedule {
  readonly id: string
  readonly task: { readonly name: string }
}

type OnError = BackgroundTasksOptions['onError'] | null

/** The most log lines of one kind at close; of further tasks only the number is logged. */
export const MAX_REPORTED = 100

/** Reports events of tasks to the user: to the log, to `onError`, and without a logger as process warnings. Made at registration. */
export class Report {
  readonly #onError: OnError
  readonly #appLog: FastifyBaseLogger
  readonly #silent: boolean
  /** Whether the close has aborted the running tasks. */
  closing = false
  /** Tasks that have failed since {@link closing}. */
  #failedAtClose = 0

  constructor (log: FastifyBaseLogger, onError: OnError) {
    this.#onError = onError
    this.#appLog = log
    this.#silent = isNullLogger(log)
  }

  failed (task: Task, origin: Origin, error: unknown): void {
    if (!this.closing || ++this.#failedAtClose <= MAX_REPORTED) this.#error(origin, 'FST_BGT_TASK_FAILED', 'background task failed', error, task)
    if (this.#onError !== null) this.#callOnError(error, task, origin)
  }

  #callOnError (error: unknown, task: Task, origin: Origin): void {
    const rejected = (err: unknown) => this.#error(origin, 'FST_BGT_ON_ERROR_FAILED', 'onError of background tasks failed', err, task)
    try {
      // `onError` may be async: its rejection must not end the process.
      Promise.resolve(this.#onError!(error, task, origin.request)).catch(rejected)
    } catch (err) {
      rejected(err)
    }
  }

  /** The option `outcome` has thrown, or returned an invalid value. */
  outcomeFailed (origin: Origin, error: unknown): void {
    this.#error(origin, 'FST_BGT_OUTCOME_FAILED', "the option 'outcome' of background tasks failed", error)
  }

  disposalFailed (origin: Origin, error: unknown, task?: Task): void {
    this.#error(origin, 'FST_BGT_DISPOSAL_FAILED', 'disposing a DI scope after its background tasks failed', error, task)
  }

  /** A backend refused the progress of a task. */
  progressFailed (task: Task, origin: Origin, error: unknown): void {
    this.#error(origin, 'FST_BGT_PROGRESS_FAILED', 'progress of a background task could not be passed on', error, task)
  }

  /** A thread ended with no task on it, for instance by leftover work of an ended task. */
  threadEnded (error: unknown): void {
    this.#error({ log: this.#appLog }, 'FST_BGT_THREAD_ENDED', 'a thread of background tasks ended while no task ran on it', error)
  }

  /**
   * At close: the task has not ended, or not begun, in time.
   * @param isWritten whether to log a line; `onError` is called in any case
   */
  unfinished (task: Task, origin: Origin, error: Error, isWritten: boolean): void {
    if (isWritten) this.#writeUnfinished(task, origin, error)
    if (this.#onError !== null) this.#callOnError(error, task, origin)
  }

  #writeUnfinished (task: Task, origin: Origin, error: Error): void {
    const message = 'background task did not end before the application closed'
    if (this.#silent) warn('FST_BGT_CLOSE_TIMEOUT', `${message}: '${task.name}' (${task.state})`, stackOf(error))
    else this.#log(origin, 'error', message, () => ({ task: { ...describe(task), state: task.state } }))
  }

  /** At close. @param count all tasks that have not ended */
  moreUnfinished (count: number): void {
    this.#more('FST_BGT_CLOSE_TIMEOUT', 'more background tasks did not end before the application closed', count)
  }

  /** At close. @param count all DI scopes that have not been disposed */
  moreUndisposed (count: number): void {
    this.#more('FST_BGT_DISPOSAL_FAILED', 'more DI scopes of background tasks were not disposed before the application closed', count)
  }

  /** At the end of the close: the failed tasks beyond {@link MAX_REPORTED}. */
  moreFailed (): void {
    this.#more('FST_BGT_TASK_FAILED', 'more background tasks failed while the application closed', this.#failedAtClose)
  }

  /** Logs how many of `all` go beyond {@link MAX_REPORTED}. */
  #more (code: string, message: string, all: number): void {
    const count = all - MAX_REPORTED
    if (count <= 0) return
    if (this.#silent) warn(code, `${message}: ${count}`, '')
    else this.#log({ log: this.#appLog }, 'error', message, () => ({ count }))
  }

  /** A run of a schedule that stays in this process was skipped. @param last the id of the run that has not settled */
  runSkipped ({ id, task }: NamedSchedule, due: number, last: string): void {
    writeLog(() => this.#appLog, 'warn', 'background task skipped: the last run of its schedule has not settled', () => ({ schedule: { id, due: new Date(due), last }, task: { name: task.name } }))
  }

  /** A run of a schedule that stays in this process could not be added. */
  runRefused ({ id, task }: NamedSchedule, due: number, error: unknown): void {
    const message = 'background task of a schedule could not be added'
    if (this.#silent) warn('FST_BGT_RUN_REFUSED', `${message}: '${task.name}'`, stackOf(error))
    else this.#log({ log: this.#appLog }, 'error', message, () => ({ err: error, schedule: { id, due: new Date(due) }, task: { name: task.name } }))
  }

  retry (task: Task, origin: Origin, error: unknown): void {
    this.#log(origin, 'debug', 'background task will be tried again', () => ({ err: error, task: describe(task) }))
  }

  dropped (task: Task, origin: Origin, why: string): void {
    this.#log(origin, 'debug', 'background task dropped', () => ({ task: describe(task), why }))
  }

  cancelled (task: Task, origin: Origin): void {
    this.#log(origin, 'debug', 'background task cancelled', () => ({ task: describe(task) }))
  }

  /** @param by the new task with the same key */
  replaced (task: Task, origin: Origin, by: Task): void {
    this.#log(origin, 'debug', 'background task replaced', () => ({ task: describe(task), by: describe(by) }))
  }

  /** A delivery that this process does not run. */
  returned ({ task, attempt }: Delivery, origin: Origin, reason: Error): void {
    this.#log(origin, 'warn', 'background task left to another worker', () => ({ err: reason, task: { id: task.id, name: task.label, attempt } }))
  }

  /** A task was cancelled here while it was being stored, and could not be cancelled in the backend. */
  notCancelled (task: Task, origin: Origin, error: unknown): void {
    this.#error(origin, 'FST_BGT_NOT_CANCELLED', 'background task could not be cancelled in the backend', error, task)
  }

  /** A task was settled while it was being stored, and is not cancelled in the backend. */
  staysStored (task: Task, origin: Origin, why: string): void {
    this.#log(origin, 'warn', 'background task stays in the backend', () => ({ task: describe(task), why }))
  }

  /** A task was stored with a reply that has failed since, and is not cancelled. */
  staysStoredAfterFailure (task: Task, origin: Origin, why: string): void {
    this.#log(origin, 'warn', 'background task of a failed request stays in the backend', () => ({ task: describe(task), why }))
  }

  #error (origin: Pick<Origin, 'log'>, code: string, message: string, error: unknown, task?: Task): void {
    if (this.#silent) warn(code, task === undefined ? message : `${message}: '${task.name}'`, stackOf(error))
    else this.#log(origin, 'error', message, () => ({ err: error, ...(task !== undefined && { task: describe(task) }) }))
  }

  #log (origin: Pick<Origin, 'log'>, level: 'error' | 'warn' | 'debug', message: string, fields: () => object): void {
    writeLog(() => origin.log, level, message, fields)
  }
}

export interface TaskDescription {
  id: string
  name: string
  attempt: number
}

/** A task as log lines show it. */
export function describe (task: Task): TaskDescription {
  return { id: task.ownId, name: task.name, attempt: task.attempts }
}

/** Without the option `logger`, all methods of Fastify's logger are the same empty function. */
function isNullLogger (log: FastifyBaseLogger): boolean {
  return log.error === log.fatal && log.level === undefined
}
