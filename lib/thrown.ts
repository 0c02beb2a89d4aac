import { types } from 'node:util'
import { received } from './received'

/**
 * What was thrown, on its way between threads. The structured clone of an error would lose its `code`, and the `name` of
 * a class of its own.
 */
export type Thrown =
  | { kind: 'error', name: string, message: string, stack: string | undefined, cause: Thrown | null, fields: Record<string, unknown> }
  | { kind: 'value', value: unknown }
  /** The reason that the signal aborted with. The other side has it, and knows it by its identity. */
  | { kind: 'reason' }

/** How far a chain of causes is followed: one may lead back to its beginning. */
const MAX_CAUSES = 8

/** Classes that a `catch` may ask for. */
const CLASSES = new Map<string, ErrorConstructor>([EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map(type => [type.name, type]))

export function encodeThrown (thrown: unknown, signal?: AbortSignal, causes = 0): Thrown {
  if (signal?.aborted === true && thrown === signal.reason) return { kind: 'reason' }
  if (!isError(thrown)) return { kind: 'value', value: clonable(thrown) }
  try {
    const { name, message, stack, cause, ...fields } = { ...thrown, name: thrown.name, message: thrown.message, stack: thrown.stack, cause: thrown.cause }
    return {
      kind: 'error',
      name: String(name),
      message: String(message),
      stack: stack === undefined ? undefined : String(stack),
      cause: cause === undefined || causes === MAX_CAUSES ? null : encodeThrown(cause, signal, causes + 1),
      fields: Object.fromEntries(Object.entries(fields).map(([field, value]) => [field, clonable(value)]))
    }
  } catch {
    // Its getters throw, too.
    return { kind: 'value', value: 'an error that cannot be read' }
  }
}

export function decodeThrown (thrown: Thrown, signal?: AbortSignal): unknown {
  if (thrown.kind === 'reason') return signal?.reason
  if (thrown.kind === 'value') return thrown.value
  const { name, message, stack, cause, fields } = thrown
  const error = new (CLASSES.get(name) ?? Error)(message)
  Object.assign(error, fields)
  const hidden = { name, stack, ...(cause === null ? {} : { cause: decodeThrown(cause, signal) }) }
  for (const [field, value] of Object.entries(hidden)) {
    Object.defineProperty(error, field, { value, writable: true, configurable: true, enumerable: false })
  }
  return error
}

/** One of this realm, or of another, as a `vm` context makes them. */
export function isError (value: unknown): value is Error {
  return value instanceof Error || types.isNativeError(value)
}

/** The value, or, where it cannot go to another thread, how it would be shown. */
export function clonable (value: unknown): unknown {
  if ((typeof value !== 'object' && typeof value !== 'function' && typeof value !== 'symbol') || value === null) return value
  try {
    return structuredClone(value)
  } catch {
    return received(value)
  }
}
