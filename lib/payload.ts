import { FST_BGT_INVALID_PAYLOAD } from './errors'
import { received } from './received'
import { Snapshot } from './snapshot'

/**
 * The JSON text of a payload, or `undefined` for a task without one. It is the snapshot that every attempt starts from.
 * @throws FST_BGT_INVALID_PAYLOAD with the path to the first value that would not come out of JSON as it went in
 */
export function serializePayload (task: string, payload: unknown): string | undefined {
  if (payload === undefined) return undefined
  try {
    check(task, payload, [], [])
    return JSON.stringify(payload)
  } catch (error) {
    if (error instanceof FST_BGT_INVALID_PAYLOAD) throw error
    // Nested too deeply, or a proxy that does as it likes.
    throw new FST_BGT_INVALID_PAYLOAD(task, 'payload', `what cannot be read (${(error as Error).message})`)
  }
}

/** What a defined task keeps of its payload: JSON text, or a clone that goes to a thread. */
export type KeptPayload = string | Snapshot | undefined

export function parsePayload (payload: KeptPayload): unknown {
  if (payload instanceof Snapshot) return payload.value
  return payload === undefined ? undefined : JSON.parse(payload)
}

/** @param keys the way to the value, put into words only where it is refused */
function check (task: string, value: unknown, keys: Key[], parents: object[]): void {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return
    case 'number':
      if (Number.isFinite(value) && !Object.is(value, -0)) return
      break
    case 'object':
      if (value === null) return
      if (!parents.includes(value) && isPlain(value)) return checkMembers(task, value, keys, parents)
  }
  throw new FST_BGT_INVALID_PAYLOAD(task, pathOf(keys), parents.includes(value as object) ? 'a cycle' : received(value))
}

function checkMembers (task: string, value: object, keys: Key[], parents: object[]): void {
  const depth = parents.push(value)
  if (Array.isArray(value)) {
    // Not `forEach`: it passes over the holes, which JSON turns into null.
    for (let index = 0; index < value.length; index++) {
      keys[depth - 1] = index
      check(task, value[index], keys, parents)
    }
  } else {
    for (const key of Object.getOwnPropertyNames(value)) {
      keys[depth - 1] = key
      const property = Object.getOwnPropertyDescriptor(value, key) as PropertyDescriptor
      // JSON does not see the one and asks the other, who may answer otherwise next time.
      if (!property.enumerable || property.get !== undefined) throw new FST_BGT_INVALID_PAYLOAD(task, pathOf(keys), 'a hidden or computed property')
      check(task, property.value, keys, parents)
    }
  }
  keys.length = depth - 1
  parents.pop()
}

type Key = string | number

function pathOf (keys: Key[]): string {
  return `payload${keys.map(step).join('')}`
}

function step (key: Key): string {
  if (typeof key === 'number') return `[${key}]`
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

/** An array, or an object, whose prototype is that of its realm, or none, and that JSON reads member by member. */
function isPlain (value: object): boolean {
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return false
  if (Object.getOwnPropertySymbols(value).length !== 0) return false
  const prototype = Object.getPrototypeOf(value)
  if (Array.isArray(value)) return Object.keys(value).length <= value.length && isRoot(Object.getPrototypeOf(prototype))
  return prototype === null || isRoot(prototype)
}

/** Whether it is the `Object.prototype` of some realm. */
function isRoot (prototype: object | null): boolean {
  return prototype !== null && Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'hasOwnProperty')
}
