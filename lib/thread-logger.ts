import type { FastifyBaseLogger } from 'fastify'
import { LOG_LEVELS, type LogLevel, type LogMessage } from './thread-messages'
import { clonable, encodeThrown, isError, type Thrown } from './thrown'

/** A logger inside a thread, whose lines come out of the application's. It takes what pino takes. */
export function threadLogger (post: (message: LogMessage) => void, level: string, levels: readonly LogLevel[], bindings: object = {}): FastifyBaseLogger {
  const logger: Record<string, unknown> = {
    level,
    isLevelEnabled: (level: string) => levels.includes(level as LogLevel),
    child: (more: object) => threadLogger(post, level, levels, { ...bindings, ...more }),
    silent: ignore
  }
  for (const level of LOG_LEVELS) logger[level] = levels.includes(level) ? write(level) : ignore
  return logger as unknown as FastifyBaseLogger

  function write (level: LogLevel) {
    return (first: unknown, ...rest: unknown[]): void => {
      const own = isError(first) ? { err: first } : first
      const hasFields = typeof own === 'object' && own !== null
      const { fields, errors } = sort({ ...bindings, ...(hasFields ? own : {}) })
      const message = { type: 'log', level, fields, errors, rest: hasFields ? rest : [first, ...rest] } as const
      try {
        post(message)
      } catch {
        // A line must not fail its task.
        post({ ...message, fields: mapValues(fields, clonable), rest: message.rest.map(clonable) })
      }
    }
  }
}

function sort (all: object): { fields: Record<string, unknown>, errors: Record<string, Thrown> } {
  const fields: Record<string, unknown> = {}
  const errors: Record<string, Thrown> = {}
  for (const [name, value] of Object.entries(all)) {
    if (isError(value)) errors[name] = encodeThrown(value)
    else fields[name] = value
  }
  return { fields, errors }
}

function mapValues (object: object, map: (value: unknown) => unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, map(value)]))
}

function ignore (): void {}
