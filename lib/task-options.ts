import { MAX_TIMER, milliseconds, type Check } from './check-options'
import type { Definition } from './define-task'
import { FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION } from './errors'
import { received } from './received'
import type { RunOn } from './outcome'

/** How long a failed task waits for its next attempt. The shape and its meaning are BullMQ's. */
export interface BackoffOptions {
  /** `fixed`: always `delay`. `exponential`: `delay` × 2^(attempts made − 1). */
  type: 'fixed' | 'exponential'
  /** Milliseconds. */
  delay: number
  /**
   * The share of the wait, 0 to 1, that is left to chance: with 0.5 it is between half of it and all of it.
   * @default 0
   */
  jitter?: number
}

/** The options of one `add`, and the defaults that a definition carries. */
export interface TaskOptions {
  /**
   * What logs, errors and the handle call the task.
   * @default the function's name
   */
  name?: string
  /**
   * On which outcome of the request the task runs; otherwise it is dropped, visibly. `success`: unless an error came
   * after it was added; `failure`: only if the request failed with an error; `always`; or a predicate of the outcome.
   * A task added outside a request runs in any case.
   * @default 'success'
   */
  runOn?: RunOn
  /**
   * Milliseconds one attempt may take. After that its signal aborts, the attempt fails with `FST_BGT_TIMEOUT` and the
   * next task starts; 0 sets no limit. It cannot interrupt a function that holds the thread.
   * @default 0
   */
  timeout?: number
  /**
   * How often the task is tried in all, while it fails.
   * @default 1
   */
  attempts?: number
  /** How long to wait between attempts; a number is a fixed wait in milliseconds. Without it there is no wait. */
  backoff?: number | BackoffOptions
  /**
   * Milliseconds to wait after the response has left before the task joins the line.
   * @default 0
   */
  delay?: number
  /**
   * Within one request, a later task with the same key replaces one that has not started. Without a meaning outside
   * a request.
   */
  key?: string
  /**
   * While a task with this id is not settled, another one with it is dropped: across requests, and with a backend
   * across processes. For defined tasks only.
   */
  dedupe?: string
  /**
   * Appends an `AbortSignal` to the arguments of a plain function. It aborts at the timeout, at `cancel()` and when
   * the application's close runs out of time.
   * @default false
   */
  signal?: boolean
}

/** Options of a task, checked, with every field there. */
export interface TaskSpec {
  readonly name: string | null
  readonly runOn: RunOn
  readonly timeout: number
  readonly attempts: number
  readonly backoff: Required<BackoffOptions> | null
  readonly delay: number
  readonly key: string | null
  readonly dedupe: string | null
  readonly signal: boolean
  /** Keeps a defined task in this process where there is a backend. */
  readonly local: boolean
  readonly definition: Definition | null
}

const DEFAULTS: TaskSpec = {
  name: null, runOn: 'success', timeout: 0, attempts: 1, backoff: null, delay: 0, key: null, dedupe: null, signal: false, local: false, definition: null
}

/** Not every store can keep a NUL, or half of a character. */
const text: Check = ['a non-empty string of whole characters', value => typeof value === 'string' && value !== '' && !/[\0\p{Surrogate}]/u.test(value)]

const CHECKS: { readonly [name in keyof TaskOptions]-?: Check } = {
  name: text,
  runOn: [
    "'success', 'failure', 'always' or a function",
    value => value === 'success' || value === 'failure' || value === 'always' || typeof value === 'function'
  ],
  timeout: milliseconds,
  attempts: ['a whole number from 1 on', value => Number.isSafeInteger(value) && (value as number) >= 1],
  backoff: [
    "a number of milliseconds or { type: 'fixed' | 'exponential', delay: milliseconds, jitter?: 0 to 1 }",
    value => milliseconds[1](value) || isBackoff(value)
  ],
  delay: milliseconds,
  key: text,
  dedupe: text,
  signal: ['a boolean', value => typeof value === 'boolean']
}

/** Not an array, a promise or an instance, which somebody has passed in place of a function. */
function isPlainObject (value: unknown): value is object {
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
 * @throws FST_BGT_INVALID_TASK when they are no object; FST_BGT_INVALID_TASK_OPTION
 */
export function resolveTaskOptions (options: unknown, defaults: TaskSpec = DEFAULTS): TaskSpec {
  if (!isPlainObject(options)) throw new FST_BGT_INVALID_TASK(received(options))
  const spec: { -readonly [name in keyof TaskSpec]: TaskSpec[name] } = { ...defaults }
  for (const [name, value] of Object.entries(options)) {
    const check = Object.hasOwn(CHECKS, name) ? CHECKS[name as keyof TaskOptions] : undefined
    if (check === undefined) throw new FST_BGT_INVALID_TASK_OPTION(name, `one of ${Object.keys(CHECKS).join(', ')}`, received(value))
    if (value === undefined) continue
    if (!check[1](value)) throw new FST_BGT_INVALID_TASK_OPTION(name, check[0], received(value))
    ;(spec as Record<string, unknown>)[name] = name === 'backoff' ? resolveBackoff(value) : value
  }
  return spec
}

function resolveBackoff (value: number | BackoffOptions): Required<BackoffOptions> {
  return typeof value === 'number' ? { type: 'fixed', delay: value, jitter: 0 } : { jitter: 0, ...value }
}

/** How long to wait, in milliseconds, after `attempts` failed ones: BullMQ's formula, held below what a timer takes. */
export function backoffDelay ({ type, delay, jitter }: Required<BackoffOptions>, attempts: number): number {
  // Not 0 × Infinity, after a thousand attempts.
  const wait = type === 'exponential' && delay !== 0 ? delay * 2 ** (attempts - 1) : delay
  return Math.min(Math.round(wait * (1 - jitter * Math.random())), MAX_TIMER)
}
