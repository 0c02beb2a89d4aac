import type { FastifyBaseLogger } from 'fastify'
import { createWarning } from 'process-warning'
import type { Delivery } from './backends/backend'
import { publishRetry } from './diagnostics'
import type { Line } from './line'
import type { ResolvedOptions } from './options'
import type { Task } from './task'
import { text, warn, writeLog } from './write-log'

/** Emitted once a process: one is enough to find the cause, and a busy server would repeat it without end. */
export const lateAddWarning = createWarning({
  name: 'FastifyBackgroundTasksWarning',
  code: 'FST_BGT_LATE_ADD',
  message: "The background task '%s' was added to a request whose tasks had all run; it was started at once. " +
    'Likely causes: a promise that the handler does not await, a handler that outlived its timeout or its client, ' +
    'or a singleton that keeps the collector of the first request it was resolved in. ' +
    "For the last, set the option 'asyncContext: true'."
})

/** Tells the user what became of a task: by the log, by `onError`, and where there is no log by a process warning. */
export class Report {
  readonly #onError: ResolvedOptions['onError']
  readonly #appLog: FastifyBaseLogger
  readonly #silent: boolean

  constructor (log: FastifyBaseLogger, onError: ResolvedOptions['onError']) {
    this.#onError = onError
    this.#appLog = log
    this.#silent = isNullLogger(log)
  }

  failed (task: Task, line: Line, error: unknown): void {
    task.extra.error = error
    line.runtime.ledger.observer?.failed(task, line, error)
    this.#error(line, 'FST_BGT_TASK_FAILED', 'background task failed', error, task)
    if (this.#onError !== null) this.#callOnError(error, task, line)
  }

  #callOnError (error: unknown, task: Task, line: Line): void {
    const rejected = (err: unknown) => this.#error(line, 'FST_BGT_ON_ERROR_FAILED', 'onError of background tasks failed', err, task)
    try {
      // An async function is an onError too; what it rejects with must not end the process.
      Promise.resolve(this.#onError!(error, task, line.request)).catch(rejected)
    } catch (err) {
      rejected(err)
    }
  }

  disposalFailed (line: Line, error: unknown, task?: Task): void {
    this.#error(line, 'FST_BGT_DISPOSAL_FAILED', 'disposing a DI scope after its background tasks failed', error, task)
  }

  /** A backend would not take how far a task has come. */
  progressFailed (task: Task, line: Line, error: unknown): void {
    this.#error(line, 'FST_BGT_PROGRESS_FAILED', 'progress of a background task could not be passed on', error, task)
  }

  /** A thread has ended with no task on it: what one of its tasks has left behind has failed. */
  threadEnded (error: unknown): void {
    this.#error({ log: this.#appLog }, 'FST_BGT_THREAD_ENDED', 'a thread of background tasks ended while no task ran on it', error)
  }

  /** At close: the task will not end, or will not begin, in this process. */
  unfinished (task: Task, line: Line, error: Error): void {
    const message = 'background task did not end before the application closed'
    if (this.#silent) warn('FST_BGT_CLOSE_TIMEOUT', `${message}: '${task.name}' (${task.state})`, text(error))
    else this.#log(line, 'error', message, () => ({ task: { ...describe(task), state: task.state } }))
    if (this.#onError !== null) this.#callOnError(error, task, line)
  }

  retry (task: Task, line: Line, error: unknown): void {
    this.#log(line, 'debug', 'background task will be tried again', () => ({ err: error, task: describe(task) }))
    line.runtime.ledger.observer?.retried(task, error)
    publishRetry(task, line, error)
  }

  dropped (task: Task, line: Line, why: string): void {
    this.#log(line, 'debug', 'background task dropped', () => ({ task: describe(task), why }))
  }

  cancelled (task: Task, line: Line): void {
    this.#log(line, 'debug', 'background task cancelled', () => ({ task: describe(task) }))
  }

  /** @param by the task that has its key now */
  replaced (task: Task, line: Line, by: Task): void {
    this.#log(line, 'debug', 'background task replaced', () => ({ task: describe(task), by: describe(by) }))
  }

  /** A worker has been handed a task that it does not run. */
  leftToAnother ({ task, attempt }: Delivery, line: Line, reason: Error): void {
    this.#log(line, 'warn', 'background task left to another worker', () => ({ err: reason, task: { id: task.id, name: task.label, attempt } }))
  }

  /** A task was called off while it was on its way to the backend, which has not been told. */
  notCalledOff (task: Task, line: Line, error: unknown): void {
    this.#error(line, 'FST_BGT_NOT_CALLED_OFF', 'background task could not be called off in the backend', error, task)
  }

  #error (line: Pick<Line, 'log'>, code: string, message: string, error: unknown, task?: Task): void {
    if (this.#silent) warn(code, task === undefined ? message : `${message}: '${task.name}'`, text(error))
    else this.#log(line, 'error', message, () => ({ err: error, ...(task !== undefined && { task: describe(task) }) }))
  }

  #log (line: Pick<Line, 'log'>, level: 'error' | 'warn' | 'debug', message: string, fields: () => object): void {
    writeLog(() => line.log, level, message, fields)
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

/** Fastify without the option `logger` has a logger whose every method is one and the same empty function. */
function isNullLogger (log: FastifyBaseLogger): boolean {
  return log.error === log.fatal && log.level === undefined
}
