import type { ListedTask, StoredTask } from '../../types/backend'
import { received } from '../shared/show'

/* Checks of what a backend has stored under a task's id: another program, another version or a human may have written it. */

const isNumber = (value: unknown): boolean => typeof value === 'number' && value >= 0 && value < Infinity
const isTextOrNull = (value: unknown): boolean => value === null || typeof value === 'string'
const isObjectOrNull = (value: unknown): boolean => typeof value === 'object'

/** Unknown fields are accepted: a newer version may have written them. */
const isBackoff = (value: unknown): boolean => {
  const { type, delay, jitter } = (value ?? {}) as Record<string, unknown>
  return (type === 'fixed' || type === 'exponential') && isNumber(delay) && isNumber(jitter)
}

const FIELDS: ReadonlyArray<[keyof StoredTask, (value: unknown) => boolean]> = [
  ['name', value => typeof value === 'string'],
  ['label', value => typeof value === 'string'],
  ['payload', isTextOrNull],
  ['requestId', isTextOrNull],
  ['attempts', isNumber],
  ['backoff', value => value === null || isBackoff(value)],
  ['delay', isNumber],
  ['timeout', isNumber],
  ['dedupe', isTextOrNull],
  ['carrier', isObjectOrNull]
]

/** The flaw of a stored task that cannot be run, as part of a message; `null` if it can be run. */
export function flawOf (id: string, task: unknown): string | null {
  if (task === undefined) return 'it is not JSON'
  if (typeof task !== 'object' || task === null) return `it is ${received(task)}`
  if ((task as StoredTask).id !== id) return `its id is ${received((task as StoredTask).id)}`
  for (const [field, accepts] of FIELDS) {
    const value = (task as StoredTask)[field]
    if (!accepts(value)) return `its field '${field}' is ${received(value)}`
  }
  return null
}

/** The error message of a task with a flaw. */
export function unusable (flaw: string): string {
  return `the stored task cannot be used: ${flaw}`
}

/** The fields of a stored task that can be shown, with substitutes for what cannot be read. */
export function shownTask (id: string, task: unknown): Pick<ListedTask, 'id' | 'name' | 'label' | 'payload' | 'requestId' | 'attempts'> {
  const { name, label, payload, requestId, attempts } = (task ?? {}) as Record<keyof StoredTask, unknown>
  const shownName = typeof name === 'string' ? name : ''
  return {
    id,
    name: shownName,
    label: typeof label === 'string' ? label : shownName,
    payload: typeof payload === 'string' ? payload : null,
    requestId: typeof requestId === 'string' ? requestId : null,
    attempts: isNumber(attempts) ? attempts as number : 1
  }
}

/** A task as log lines show it. */
export function loggedTask ({ id, label }: Pick<StoredTask, 'id' | 'label'>): { id: string, name: string } {
  return { id, name: label }
}
