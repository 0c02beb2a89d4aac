import { type Check, count } from '../shared/check-options'

/** How long settled tasks are kept, in seconds, and how many of them. */
export interface Retention { age: number, count: number }

/** A day for completed tasks, a week for failed ones. */
export const RETAIN = { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }

export const retention: Check = ['{ completed?: { age, count }, failed?: { age, count } }, in seconds', value =>
  typeof value === 'object' && value !== null && Object.entries(value).every(isRetention)]

function isRetention ([name, value]: [string, any]): boolean {
  return Object.hasOwn(RETAIN, name) && typeof value?.age === 'number' && value.age >= 0 && count[1](value.count)
}
