import type { FastifyBaseLogger } from 'fastify'
import { received } from './show'

/*
 * The last step of every report: a log line or a process warning. Neither throws.
 */

type Logger = FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }

/**
 * Writes a log line. A logger may throw: on a frozen error, on a getter that throws, on a full disk. The caller's work must go on, so
 * the failure becomes a process warning.
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

/** Warns that the logger has thrown. */
export function logFailed (message: string, error: unknown): void {
  warn('FST_BGT_LOG_FAILED', `${message}; logging it failed`, stackOf(error))
}

/** Emits a process warning of the plugin. */
export function warn (code: string, message: string, detail: string): void {
  process.emitWarning(message, { type: 'FastifyBackgroundTasksWarning', code, detail })
}

/** The stack of an error, else its text. The value may be of any type, and throw when read. */
export function stackOf (error: unknown): string {
  try {
    return error instanceof Error && error.stack !== undefined ? String(error.stack) : received(error)
  } catch {
    return 'an error that cannot be shown'
  }
}
