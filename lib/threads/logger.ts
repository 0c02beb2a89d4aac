import type { FastifyBaseLogger } from 'fastify'
import { isError } from '../shared/show'
import { LOG_LEVELS, type LogLevel, type LogMessage } from './messages'
import { clonable, encodeThrown, type Thrown } from './thrown'

/** A logger inside a thread that writes through the application's logger. It takes the same arguments as pino. */
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
      const { fields, errors } = splitErrors({ ...bindings, ...(hasFields ? own : {}) })
      // As in pino, `null` and `undefined` in the place of the fields are ignored.
      const isMessage = !hasFields && first !== undefined && first !== null
      const message = { type: 'log', level, fields, errors, rest: isMessage ? [first, ...rest] : rest } as const
      try {
        post(message)
      } catch {
        // Not clonable. A log line must not fail its task: send what can be cloned, and text for the rest.
        post({ ...message, fields: mapValues(fields, clonable), rest: message.rest.map(clonable) })
      }
    }
  }
}

function splitErrors (all: object): { fields: Record<string, unknown>, errors: Record<string, Thrown> } {
  const fields: Record<string, unknown> = {}
  const errors: Record<string, Thrown> = {}
  for (const [name, value] of Object.entries(all)) {
    if (isError(value)) errors[name] = encodeThrown(value)
    else fields[name] = jsonOf(value)
  }
  return { fields, errors }
}

/** Calls `toJSON`, which a clone loses: that of a URL or a decimal number, for instance. */
function jsonOf (value: unknown): unknown {
  try {
    const { toJSON } = Object(value) as { toJSON?: unknown }
    return typeof toJSON === 'function' ? toJSON.call(value) : value
  } catch {
    return value
  }
}

function mapValues (object: object, map: (value: unknown) => unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, map(value)]))
}

function ignore (): void {}
