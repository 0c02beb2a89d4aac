import { isError, received } from '../shared/show'

/**
 * A thrown value, encoded for another thread. The structured clone of an error would lose its `code`, and the `name` of a user's
 * class.
 */
export type Thrown =
  | { kind: 'error', name: string, message: string, stack: string | undefined, fields: Record<string, unknown>, nested: Record<string, Thrown> }
  /** An array with errors in it. */
  | { kind: 'list', items: Thrown[] }
  | { kind: 'value', value: unknown }
  /** The abort reason of the signal, which the other thread has: the receiver gets the same object, not a copy. */
  | { kind: 'reason' }

/** The members of a signal that are used here. */
type Aborting = Pick<AbortSignal, 'aborted' | 'reason'>

/** Limit of nesting for causes and other errors in an error: they may be circular. */
const MAX_DEPTH = 8

/** Limit of errors in one error. */
const MAX_ERRORS = 100

/** Fields that an error may have as a getter, or not enumerable. */
const HIDDEN = ['cause', 'code', 'errors'] as const

/** Classes that a `catch` may test with `instanceof`. */
const CLASSES = new Map<string, ErrorConstructor>([EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map(type => [type.name, type]))

export function encodeThrown (thrown: unknown, signal?: Aborting): Thrown {
  return new Encoder(signal).encode(thrown, 0)
}

class Encoder {
  readonly #signal: Aborting | undefined
  #errors = 0

  constructor (signal: Aborting | undefined) {
    this.#signal = signal
  }

  encode (thrown: unknown, depth: number): Thrown {
    if (this.#signal?.aborted === true && thrown === this.#signal.reason) return { kind: 'reason' }
    if (!isError(thrown)) return { kind: 'value', value: clonable(thrown) }
    this.#errors++
    try {
      const { name, message, stack, ...rest } = { ...thrown, name: thrown.name, message: thrown.message, stack: thrown.stack }
      const all: Record<string, unknown> = rest
      for (const field of HIDDEN) {
        const value = (thrown as Error & Record<string, unknown>)[field]
        if (value !== undefined) all[field] = value
      }
      const fields: Record<string, unknown> = {}
      const nested: Record<string, Thrown> = {}
      for (const [field, value] of Object.entries(all)) {
        if (field === 'cause' || isError(value)) {
          if (this.#hasRoom(depth)) nested[field] = this.encode(value, depth + 1)
        } else if (Array.isArray(value) && (field === 'errors' || value.some(isError))) {
          nested[field] = { kind: 'list', items: this.#encodeAll(value, depth) }
        } else {
          fields[field] = clonable(value)
        }
      }
      return { kind: 'error', name: String(name), message: String(message), stack: stack === undefined ? undefined : String(stack), fields, nested }
    } catch {
      // A getter of the error has thrown.
      return { kind: 'value', value: 'an error that cannot be read' }
    }
  }

  #encodeAll (values: unknown[], depth: number): Thrown[] {
    return values.flatMap(value => isError(value) && !this.#hasRoom(depth) ? [] : [this.encode(value, depth + 1)])
  }

  #hasRoom (depth: number): boolean {
    return depth < MAX_DEPTH && this.#errors < MAX_ERRORS
  }
}

export function decodeThrown (thrown: Thrown, signal?: Aborting): unknown {
  if (thrown.kind === 'reason') return signal?.reason
  if (thrown.kind === 'value') return thrown.value
  if (thrown.kind === 'list') return thrown.items.map(item => decodeThrown(item, signal))
  const { name, message, stack, fields, nested } = thrown
  const isAggregate = name === 'AggregateError'
  const error = isAggregate ? new AggregateError([], message) : new (CLASSES.get(name) ?? Error)(message)
  Object.assign(error, fields)
  const values = { name, stack, ...Object.fromEntries(Object.entries(nested).map(([field, value]) => [field, decodeThrown(value, signal)])) }
  for (const [field, value] of Object.entries(values)) {
    const enumerable = field in nested && field !== 'cause' && !(isAggregate && field === 'errors')
    Object.defineProperty(error, field, { value, writable: true, configurable: true, enumerable })
  }
  return error
}

/** The value, or, where it cannot be cloned, its text. */
export function clonable (value: unknown): unknown {
  if ((typeof value !== 'object' && typeof value !== 'function' && typeof value !== 'symbol') || value === null) return value
  try {
    return structuredClone(value)
  } catch {
    return received(value)
  }
}
