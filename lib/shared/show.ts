import { inspect, types, type InspectOptions } from 'node:util'

/** The most members of an object that are shown. `inspect` has no such limit. */
const MAX_MEMBERS = 20

/**
 * A value as text. The time hardly grows with the value's size; exceptions of getters, traps and `inspect.custom` are caught.
 * @param options the options of `inspect`; `depth` and `maxArrayLength` are required
 */
export function show (value: unknown, options: InspectOptions & { depth: number, maxArrayLength: number }): string {
  try {
    if (!isWide(value, options.depth, options.maxArrayLength)) return inspect(value, options)
    // A proxy's members cannot be counted without calling its traps.
    if (types.isProxy(value)) return inspect(value, { ...options, depth: -1 })
    return inspect(hasManyMembers(value) ? firstMembers(value) : value, { ...options, depth: 0 })
  } catch {
    return 'what cannot be shown'
  }
}

/** Whether an object in a value, down to a depth, has more members than are shown. */
function isWide (value: unknown, depth: number, maxItems: number): boolean {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return false
  if (types.isProxy(value) || hasManyMembers(value)) return true
  return depth > 0 && itemsOf(value, maxItems).some(item => isWide(item, depth - 1, maxItems))
}

/** Counts with `for … in`, which stops early. An array's items are limited by `maxArrayLength`. */
function hasManyMembers (value: unknown): value is object {
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return false
  const names = []
  for (const name in value as object) if (names.push(name) > MAX_MEMBERS) return true
  return false
}

function firstMembers (value: object): object {
  const first = Object.create(Object.getPrototypeOf(value) as object | null) as object
  let members = 0
  for (const name in value) {
    const property = Object.getOwnPropertyDescriptor(value, name)
    if (property !== undefined) Object.defineProperty(first, name, property)
    if (++members === MAX_MEMBERS) break
  }
  return first
}

/** The items or member values that `inspect` would show. */
function itemsOf (value: object, maxItems: number): unknown[] {
  if (ArrayBuffer.isView(value)) return []
  if (Array.isArray(value)) return value.slice(0, maxItems)
  if (types.isMap(value) || types.isSet(value)) return firstOf<unknown>(value as Iterable<unknown>, maxItems).flat()
  return Object.keys(value).map(name => Object.getOwnPropertyDescriptor(value, name)?.value as unknown)
}

function firstOf<Item> (items: Iterable<Item>, count: number): Item[] {
  const first: Item[] = []
  for (const item of items) if (first.push(item) === count) break
  return first
}

/** The user and password of a URL, even if the text was cut inside them. */
const CREDENTIALS = /(\w:\/\/)(?:[^\s'"]*@|[^\s'"/]*:[^\s'"]*(?='\.{3} ))/g

/** A value as an error message shows it: short, on one line, without the credentials of URLs. */
export function received (value: unknown): string {
  const whole = show(value, { depth: 1, maxArrayLength: 3, maxStringLength: 60, breakLength: Infinity, compact: true })
  // A name may be of any length, and the search for credentials takes more than linear time.
  const text = whole.slice(0, 1_000).replace(CREDENTIALS, '$1…@')
  // Cut off the stack, which follows an error's message.
  const line = text.replace(/\n.*/s, ' …')
  return line.length > 120 ? `${line.slice(0, 119)}…` : line
}

/** {@link received} for a value that may hold a password: only its kind. */
export function withheld (value: unknown): string {
  if (typeof value === 'string' && value !== '') {
    const scheme = /^\s*[a-z][a-z\d+.-]*:\/\//i.exec(value)?.[0]
    return scheme === undefined ? 'a string' : `a string that begins with '${scheme}'`
  }
  return typeof value === 'object' && value !== null ? 'an object' : received(value)
}

/** The message of a thrown value, for a part of another message. The value may be of any type, and throw when read. */
export function textOf (thrown: unknown): string {
  try {
    return thrown instanceof Error ? String(thrown.message) : received(thrown)
  } catch {
    return 'an error that cannot be shown'
  }
}

/** The text for a value whose reading throws. */
export function unreadable (thrown: unknown): string {
  return `what cannot be read (${textOf(thrown)})`
}

/** The message of another library's error, else its code. */
export function reasonOf (error: unknown): unknown {
  // Node's AggregateError for a host with several addresses has only a code.
  return error instanceof Error ? error.message || (error as { code?: unknown }).code : error
}

/** Whether a value is an error of any realm, a `vm` context for instance. */
export function isError (value: unknown): value is Error {
  try {
    return types.isNativeError(value) || value instanceof Error
  } catch {
    // A revoked proxy, for instance.
    return false
  }
}
