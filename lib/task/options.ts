import type { BackoffOptions, TaskOptions } from '../../types/task'
import { type Check, delay, milliseconds, textUpTo } from '../shared/check-options'
import { FST_BGT_INVALID_TASK_OPTION } from '../shared/errors'
import { didYouMean } from '../shared/nearest'
import { readOr } from '../shared/read-or'
import { received, unreadable } from '../shared/show'
import { refusedTask } from './refused-task'
import type { TaskSpec } from './spec'

const DEFAULTS: TaskSpec = {
  name: null, runOn: 'success', timeout: 0, attempts: 1, backoff: null, delay: 0, key: null, dedupe: null, signal: false, local: false, definition: null
}

/** For names and ids: an entry of an index of Postgres takes 2,704 bytes, and the name of the queue is in it, too. */
const [shortText, isShort] = textUpTo(1_024)

/** Not every store keeps a NUL or a lone surrogate. */
const storableText: Check = [`${shortText}, without NUL or half of a character`, value => isShort(value) && !/[\0\p{Surrogate}]/u.test(value)]

/** The first part of the dedupe ids of schedules, whose runs no other task may hold up. */
export const SCHEDULE_DEDUPE = '$schedule:'

const [dedupeText, isDedupe] = storableText

/** The limit of an `integer` column, as BullMQ's table on Postgres has it. */
const MAX_ATTEMPTS = 2 ** 31 - 1

const CHECKS: { readonly [name in keyof TaskOptions]-?: Check } = {
  name: storableText,
  runOn: [
    "'success', 'failure', 'always' or a function",
    value => value === 'success' || value === 'failure' || value === 'always' || typeof value === 'function'
  ],
  timeout: milliseconds,
  attempts: [`a whole number from 1 to ${MAX_ATTEMPTS}`, value => Number.isInteger(value) && value >= 1 && value <= MAX_ATTEMPTS],
  backoff: [
    "a number of milliseconds or { type: 'fixed' | 'exponential', delay: milliseconds, jitter?: 0 to 1 }",
    isBackoff
  ],
  delay,
  key: storableText,
  dedupe: [`${dedupeText}, and not with '${SCHEDULE_DEDUPE}' at its beginning`, value => isDedupe(value) && !value.startsWith(SCHEDULE_DEDUPE)],
  signal: ['a boolean', value => typeof value === 'boolean']
}

const NAMES = Object.keys(CHECKS)
const NO_OPTION: Check = [`one of ${NAMES.join(', ')}`, () => false]

/** Whether a value is a plain object: no array, promise or class instance, which a user may pass by mistake. */
export function isPlainObject (value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || (Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'hasOwnProperty'))
}

function isBackoff (value: unknown): value is BackoffOptions {
  if (typeof value !== 'object' || value === null) return false
  const { type, delay, jitter = 0, ...others } = value as BackoffOptions
  return (type === 'fixed' || type === 'exponential') && milliseconds[1](delay) &&
    typeof jitter === 'number' && jitter >= 0 && jitter <= 1 && Object.keys(others).length === 0
}

/**
 * Checks the options of one task and lays them over the defaults of its definition.
 * @throws FST_BGT_INVALID_TASK if they are not a plain object; FST_BGT_INVALID_TASK_OPTION, also for an option that does not fit the kind of task
 */
export function resolveTaskOptions (options: unknown, defaults: TaskSpec = DEFAULTS): TaskSpec {
  const names = namesOf(options)
  if (names === null) throw refusedTask(options)
  const spec: { -readonly [name in keyof TaskSpec]: TaskSpec[name] } = { ...defaults }
  for (const name of names) {
    const check = Object.hasOwn(CHECKS, name) ? CHECKS[name as keyof TaskOptions] : NO_OPTION
    let value: unknown
    let resolved: unknown
    let isAccepted: boolean
    try {
      value = (options as Record<string, unknown>)[name]
      resolved = name === 'backoff' ? resolveBackoff(value) : value
      isAccepted = (value === undefined && check !== NO_OPTION) || check[1](resolved)
    } catch (error) {
      // A user's getter or proxy has thrown.
      throw new FST_BGT_INVALID_TASK_OPTION(name, check[0], unreadable(error))
    }
    if (!isAccepted) throw new FST_BGT_INVALID_TASK_OPTION(name, check[0], `${received(value)}${check === NO_OPTION ? didYouMean(name, NAMES) : ''}`)
    if (value !== undefined) (spec as Record<string, unknown>)[name] = resolved
  }
  if (spec.definition === null && spec.dedupe !== null) throw new FST_BGT_INVALID_TASK_OPTION('dedupe', 'left out for a plain function: only a defined task can have it', received(spec.dedupe))
  if (spec.definition !== null && spec.signal) throw new FST_BGT_INVALID_TASK_OPTION('signal', 'left out for a defined task: its context has ctx.signal', 'true')
  return spec
}

/** An option that means nothing to one kind of `add`, and what it must be there. */
export type Meaningless = readonly [name: keyof TaskOptions, expected: string]

/** The options that mean nothing to `ctx.add`. */
export const MEANINGLESS_IN_CONTEXT: readonly Meaningless[] = [
  ['runOn', 'left out in ctx.add, where no outcome decides'],
  ['key', 'left out in ctx.add, where no task replaces another']
]

/**
 * Refuses options that mean nothing. All else that is wrong with them is left to {@link resolveTaskOptions}.
 * @throws FST_BGT_INVALID_TASK_OPTION
 */
export function refuseMeaningless (options: unknown, meaningless: readonly Meaningless[]): void {
  for (const [name, expected] of meaningless) {
    const value = readOr(() => isPlainObject(options) ? (options as TaskOptions)[name] : undefined, undefined)
    if (value !== undefined) throw new FST_BGT_INVALID_TASK_OPTION(name, expected, received(value))
  }
}

/** The names of the options; `null` if they are no plain object or cannot be read. */
function namesOf (options: unknown): string[] | null {
  return readOr(() => isPlainObject(options) ? Object.keys(options) : null, null)
}

/** Copies the backoff, so that later changes by the user have no effect. */
function resolveBackoff (value: unknown): unknown {
  if (typeof value === 'number') return { type: 'fixed', delay: value, jitter: 0 }
  return typeof value === 'object' && value !== null ? { jitter: 0, ...value } : value
}
