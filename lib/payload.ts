import { FST_BGT_INVALID_PAYLOAD } from './errors'
import { received } from './received'

/**
 * The JSON text of a payload, or `undefined` for a task without one. It is the snapshot that every attempt starts from.
 * @throws FST_BGT_INVALID_PAYLOAD with the path to the first value that would not come out of JSON as it went in
 */
export function serializePayload (task: string, payload: unknown): string | undefined {
  if (payload === undefined) return undefined
  check(task, payload, 'payload', [])
  return JSON.stringify(payload)
}

export function parsePayload (text: string | undefined): unknown {
  return text === undefined ? undefined : JSON.parse(text)
}

function check (task: string, value: unknown, path: string, parents: object[]): void {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return
    case 'number':
      if (Number.isFinite(value)) return
      break
    case 'object':
      if (value === null) return
      if (!parents.includes(value) && isPlain(value)) return checkMembers(task, value, path, parents)
  }
  throw new FST_BGT_INVALID_PAYLOAD(task, path, parents.includes(value as object) ? 'a cycle' : received(value))
}

function checkMembers (task: string, value: object, path: string, parents: object[]): void {
  parents.push(value)
  if (Array.isArray(value)) {
    // Not `forEach`: it passes over the holes, which JSON turns into null.
    for (let index = 0; index < value.length; index++) check(task, value[index], `${path}[${index}]`, parents)
  } else {
    for (const [key, member] of Object.entries(value)) check(task, member, memberPath(path, key), parents)
  }
  parents.pop()
}

function memberPath (path: string, key: string): string {
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`
}

/** An array, or an object whose prototype is none or an `Object.prototype`, of whichever realm, and that JSON reads member by member. */
function isPlain (value: object): boolean {
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return false
  if (Object.getOwnPropertySymbols(value).length !== 0) return false
  if (Array.isArray(value)) return Object.keys(value).length <= value.length
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
