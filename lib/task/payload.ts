import { FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE } from '../shared/errors'
import { MAX_JSON_CHARS } from '../shared/json'
import { ignoreRejection } from '../shared/promises'
import { received, unreadable } from '../shared/show'
import { Snapshot } from './snapshot'

/**
 * The JSON text of a payload, from which every attempt gets a new copy; `undefined` for a task without one.
 * @throws FST_BGT_INVALID_PAYLOAD with the path of the first value that JSON would change or lose; FST_BGT_PAYLOAD_TOO_LARGE
 */
export function serializePayload (task: string, payload: unknown): string | undefined {
  if (payload === undefined) return undefined
  const json = stringify(task, payload)
  if (json.length > MAX_JSON_CHARS) throw new FST_BGT_PAYLOAD_TOO_LARGE(task, MAX_JSON_CHARS, json.length)
  return json
}

/** A payload that a thread has serialized already. */
export class SerializedPayload {
  readonly json: string

  constructor (json: string) {
    this.json = json
  }
}

function stringify (task: string, payload: unknown): string {
  try {
    if (payload instanceof SerializedPayload) return payload.json
    check(task, payload, [], new Parents())
    return JSON.stringify(payload)
  } catch (error) {
    if (isRefusal(error)) throw error
    // Nested too deeply for the stack, or a user's proxy has thrown.
    throw new FST_BGT_INVALID_PAYLOAD(task, 'payload', unreadable(error))
  }
}

/** A proxy's trap can throw any value, even one on which `instanceof` throws. */
function isRefusal (error: unknown): boolean {
  try {
    return error instanceof FST_BGT_INVALID_PAYLOAD
  } catch {
    return false
  }
}

/** The payload as a defined task keeps it: JSON text, or a structured clone for a thread. */
export type KeptPayload = string | Snapshot | undefined

export function parsePayload (payload: KeptPayload): unknown {
  if (payload instanceof Snapshot) return payload.value
  return payload === undefined ? undefined : JSON.parse(payload)
}

/** @param keys the path to the value, formatted only for an error */
function check (task: string, value: unknown, keys: Key[], parents: Parents): void {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return
    case 'number':
      if (Number.isFinite(value) && !Object.is(value, -0)) return
      break
    case 'object':
      if (value === null) return
      if (!parents.has(value) && isPlain(value)) return checkMembers(task, value, keys, parents)
  }
  ignoreRejection(value)
  throw new FST_BGT_INVALID_PAYLOAD(task, pathOf(keys), parents.has(value as object) ? 'a cycle' : received(value))
}

function checkMembers (task: string, value: object, keys: Key[], parents: Parents): void {
  const depth = parents.push(value)
  if (Array.isArray(value)) {
    // Not `forEach`: it skips holes, which JSON turns into `null`.
    for (let index = 0; index < value.length; index++) {
      keys[depth - 1] = index
      check(task, value[index], keys, parents)
    }
  } else {
    for (const key of Object.getOwnPropertyNames(value)) {
      keys[depth - 1] = key
      const property = Object.getOwnPropertyDescriptor(value, key) as PropertyDescriptor
      // JSON skips a hidden property, and calls a getter, which may return another value next time.
      if (!property.enumerable || property.get !== undefined) throw new FST_BGT_INVALID_PAYLOAD(task, pathOf(keys), 'a hidden or computed property')
      check(task, property.value, keys, parents)
    }
  }
  keys.length = depth - 1
  parents.pop(value)
}

/** Up to this depth an array is searched, which is faster than a set. */
const ARRAY_DEPTH = 16

/** The objects around the present value, outermost first, to find cycles. */
class Parents {
  readonly #array: object[] = []
  #set: Set<object> | null = null

  has (value: object): boolean {
    return this.#array.includes(value) || (this.#set !== null && this.#set.has(value))
  }

  /** Returns the new number of parents. */
  push (value: object): number {
    if (this.#array.length < ARRAY_DEPTH) return this.#array.push(value)
    this.#set ??= new Set()
    return ARRAY_DEPTH + this.#set.add(value).size
  }

  pop (last: object): void {
    if (this.#set === null || !this.#set.delete(last)) this.#array.pop()
  }
}

type Key = string | number

function pathOf (keys: Key[]): string {
  return `payload${keys.map(pathSegment).join('')}`
}

function pathSegment (key: Key): string {
  if (typeof key === 'number') return `[${key}]`
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

/** Whether JSON reads an array or object member by member: its prototype is its realm's, or `null`, and it has no `toJSON`. */
function isPlain (value: object): boolean {
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return false
  if (Object.getOwnPropertySymbols(value).length !== 0) return false
  const prototype = Object.getPrototypeOf(value)
  if (Array.isArray(value)) return Object.keys(value).length <= value.length && isRoot(Object.getPrototypeOf(prototype))
  return prototype === null || isRoot(prototype)
}

/** Whether a prototype is the `Object.prototype` of any realm. */
function isRoot (prototype: object | null): boolean {
  return prototype !== null && Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'hasOwnProperty')
}
