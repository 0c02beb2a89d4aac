import type { FastifyBaseLogger } from 'fastify'
import { createWarning } from 'process-warning'
import type { Line } from './line'
import type { ResolvedOptions } from './options'
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
      const detail = error instanceof Error && error.stack !== undefined ? error.stack : String(error)
      process.emitWarning(`The background task '${task.name}' failed`, {
        type: 'FastifyBackgroundTasksWarning', code: 'FST_BGT_TASK_FAILED', detail
      })
    } else {
      line.log.error({ err: error, task: describe(task) }, 'background task failed')
    }
    if (this.#onError !== null) this.#callOnError(error, task, line)
  }

  #callOnError (error: unknown, task: Task, line: Line): void {
    const rejected = (err: unknown) => line.log.error({ err, task: describe(task) }, 'onError of background tasks failed')
    try {
      // An async function is an onError too; what it rejects with must not end the process.
      Promise.resolve(this.#onError!(error, task, line.request)).catch(rejected)
    } catch (err) {
      rejected(err)
    }
  }

  /** At close: the task will not end, or will not begin, in this process. */
  unfinished (task: Task, line: Line, error: Error): void {
    line.log.error({ task: { ...describe(task), state: task.state } }, 'background task did not end before the application closed')
    if (this.#onError !== null) this.#callOnError(error, task, line)
  }

  retry (task: Task, line: Line, error: unknown): void {
    line.log.debug({ err: error, task: describe(task) }, 'background task will be tried again')
  }

  dropped (task: Task, line: Line, why: string): void {
    line.log.debug({ task: describe(task), why }, 'background task dropped')
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

/** Fastify without the option `logger` has a logger whose every method is one and the same empty function. */
function isNullLogger (log: FastifyBaseLogger): boolean {
  return log.error === log.fatal && log.level === undefined
}
