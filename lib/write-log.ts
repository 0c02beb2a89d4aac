import type { FastifyBaseLogger } from 'fastify'
import { received } from './received'

/*
 * The last step of all that is said: a line of a log, or a process warning. Neither fails, whatever is to be said.
 */

type Logger = FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }

/**
 * A logger may fail: on an error that is frozen or whose getters throw, on a disk that is full. That must not reach whoever
 * has more to do than to tell of it.
 */
export function writeLog (logger: () => FastifyBaseLogger, level: 'error' | 'warn' | 'info' | 'debug', message: string, fields: () => object): void {
  try {
    const log: Logger = logger()
    if (level === 'debug' && log.isLevelEnabled?.('debug') === false) return
    log[level](fields(), message)
  } catch (error) {
    logFailed(message, error)
  }
}

/** What was to be logged has made the logger throw. */
export function logFailed (message: string, error: unknown): void {
  warn('FST_BGT_LOG_FAILED', `${message}; logging it failed`, text(error))
}

export function warn (code: string, message: string, detail: string): void {
  process.emitWarning(message, { type: 'FastifyBackgroundTasksWarning', code, detail })
}

/** An error as a warning shows it. Reading it may fail: anything can be thrown. */
export function text (error: unknown): string {
  try {
    return error instanceof Error && error.stack !== undefined ? String(error.stack) : received(error)
  } catch {
    return 'an error that cannot be shown'
  }
}
