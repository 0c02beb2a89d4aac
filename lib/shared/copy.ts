import { types } from 'node:util'

/** A deep copy of plain objects and arrays, cycles included. Values of other kinds are not copied. */
export function copyOf (value: unknown): unknown {
  const copies = new Map<unknown, Record<string, unknown> | null>()
  const copy = (value: unknown): unknown => {
    if (typeof value !== 'object' || value === null) return value
    let found = copies.get(value)
    if (found === undefined) copies.set(value, found = shallowCopy(value))
    return found ?? value
  }
  const result = copy(value)
  // A `Map` iterates over entries that are added meanwhile.
  for (const found of copies.values()) {
    if (found !== null) for (const name of Object.keys(found)) found[name] = copy(found[name])
  }
  return result
}

/** `null` if the value is not a plain object or array, or cannot be read. */
function shallowCopy (value: object): Record<string, unknown> | null {
  if (types.isProxy(value)) return null
  try {
    const prototype: unknown = Object.getPrototypeOf(value)
    if (Array.isArray(value)) return prototype === Array.prototype ? [...value] as unknown as Record<string, unknown> : null
    return prototype === Object.prototype ? { ...value } : null
  } catch {
    // A getter has thrown.
    return null
  }
}
