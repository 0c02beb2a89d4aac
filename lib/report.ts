import type { FastifyBaseLogger } from 'fastify'
import { createWarning } from 'process-warning'
import type { Line } from './line'
import type { ResolvedOptions } from './options'
import { received } from './received'
import type { Task } from './task'

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
  readonly #silent: boolean

  constructor (log: FastifyBaseLogger, onError: ResolvedOptions['onError']) {
    this.#onError = onError
    this.#silent = isNullLogger(log)
  }

  failed (task: Task, line: Line, error: unknown): void {
    if (this.#silent) {
      process.emitWarning(`The background task '${task.name}' failed`, {
        type: 'FastifyBackgroundTasksWarning', code: 'FST_BGT_TASK_FAILED', detail: text(error)
      })
    } else {
      this.#log(line, 'error', { err: error, task: describe(task) }, 'background task failed')
    }
    if (this.#onError !== null) this.#callOnError(error, task, line)
  }

  #callOnError (error: unknown, task: Task, line: Line): void {
    const rejected = (err: unknown) => this.#log(line, 'error', { err, task: describe(task) }, 'onError of background tasks failed')
    try {
      // An async function is an onError too; what it rejects with must not end the process.
      Promise.resolve(this.#onError!(error, task, line.request)).catch(rejected)
    } catch (err) {
      rejected(err)
    }
  }

  disposalFailed (line: Line, error: unknown): void {
    const message = 'disposing a DI scope after its background tasks failed'
    if (this.#silent) {
      process.emitWarning(message, {
        type: 'FastifyBackgroundTasksWarning', code: 'FST_BGT_DISPOSAL_FAILED', detail: text(error)
      })
    } else {
      this.#log(line, 'error', { err: error }, message)
    }
  }

  /** At close: the task will not end, or will not begin, in this process. */
  unfinished (task: Task, line: Line, error: Error): void {
    if (this.#silent) {
      process.emitWarning(`The background task '${task.name}' (${task.state}) did not end before the application closed`, {
        type: 'FastifyBackgroundTasksWarning', code: 'FST_BGT_CLOSE_TIMEOUT'
      })
    } else {
      this.#log(line, 'error', { task: { ...describe(task), state: task.state } }, 'background task did not end before the application closed')
    }
    if (this.#onError !== null) this.#callOnError(error, task, line)
  }

  retry (task: Task, line: Line, error: unknown): void {
    this.#log(line, 'debug', { err: error, task: describe(task) }, 'background task will be tried again')
  }

  dropped (task: Task, line: Line, why: string): void {
    this.#log(line, 'debug', { task: describe(task), why }, 'background task dropped')
  }

  /** A logger may fail, on an error that is frozen or whose getters throw; that must not reach the runner. */
  #log (line: Line, level: 'error' | 'debug', fields: object, message: string): void {
    try {
      line.log[level](fields, message)
    } catch (error) {
      process.emitWarning(`${message}; logging it failed`, {
        type: 'FastifyBackgroundTasksWarning', code: 'FST_BGT_LOG_FAILED', detail: text(error)
      })
    }
  }
}

export interface TaskDescription {
  id: string
  name: string
  attempt: number
}

/** A task as log lines show it. */
export function describe (task: Task): TaskDescription {
  return { id: task.id, name: task.name, attempt: task.attempts }
}

/** An error as a warning shows it. */
function text (error: unknown): string {
  return error instanceof Error && error.stack !== undefined ? error.stack : received(error)
}

/** Fastify without the option `logger` has a logger whose every method is one and the same empty function. */
function isNullLogger (log: FastifyBaseLogger): boolean {
  return log.error === log.fatal && log.level === undefined
}
