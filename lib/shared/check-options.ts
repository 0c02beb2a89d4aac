import { FST_BGT_INVALID_OPTION, FST_BGT_UNKNOWN_OPTION } from './errors'
import { didYouMean } from './nearest'
import { received, unreadable } from './show'

/** The longest delay of Node's `setTimeout`: 2^31 − 1 ms, 24.8 days. */
export const MAX_TIMER_MS = 2_147_483_647

/** A check of one option: the expectation in words, the test, and the text of a wrong value (by default {@link received}). */
export type Check = readonly [expected: string, accepts: (value: any) => boolean, show?: (value: unknown) => string]

export type Checks<Options> = { readonly [name in keyof Options]-?: Check }

/** Ten years. BullMQ orders delayed jobs in Redis by a number with room for times until 2039. */
export const MAX_DELAY_MS = 315_360_000_000

const millisecondsFrom = (least: number, most = MAX_TIMER_MS): Check => [
  `a number of milliseconds from ${least} to ${most}`,
  value => typeof value === 'number' && value >= least && value <= most
]
export const milliseconds = millisecondsFrom(0)
export const delay = millisecondsFrom(0, MAX_DELAY_MS)
/** The interval of a repeated action: 0 would repeat without a pause. */
export const period = millisecondsFrom(1)
export const limit: Check = ['a whole number from 1 on, or Infinity', value => value === Infinity || (Number.isSafeInteger(value) && value >= 1)]
export const count: Check = ['a whole number from 0 on', value => Number.isSafeInteger(value) && value >= 0]
export const flag: Check = ['a boolean', value => typeof value === 'boolean']
export const nonEmptyText: Check = ['a non-empty string', value => typeof value === 'string' && value !== '']
export const textUpTo = (bytes: number): Check => [
  `a non-empty string of at most ${bytes} bytes in UTF-8`,
  // One UTF-16 unit takes at most three bytes in UTF-8.
  value => nonEmptyText[1](value) && (value.length * 3 <= bytes || Buffer.byteLength(value) <= bytes)
]
export const oneOf = (...values: string[]): Check => [values.map(value => `'${value}'`).join(' or '), value => values.includes(value)]

/** Reads a value that may be a user's getter or proxy. An exception is refused like a wrong value. */
function read<T> (get: () => T, refuse: (received: string) => Error): T {
  try {
    return get()
  } catch (error) {
    throw refuse(unreadable(error))
  }
}

/**
 * Checks options and lays them over their defaults. An `undefined` option gets its default, if it has one.
 * @param special `ignored`: names that other code reads; `required`: names that must be present; `path`: the
 * place of the options among those of the plugin
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION
 */
export function checkOptions<Options extends object, Defaults extends object> (
  options: Options, defaults: Defaults, checks: Checks<Options>, { ignored = [], required = [], path }: { ignored?: readonly string[], required?: readonly string[], path?: string } = {}
): Options & Defaults {
  const resolved = { ...defaults } as Record<string, unknown>
  const prefix = path === undefined ? '' : `${path}.`
  if (typeof options !== 'object' || options === null) throw new FST_BGT_INVALID_OPTION(path ?? 'options', 'an object', `a ${typeof options}`)
  const names = read(() => Object.keys(options), received => new FST_BGT_INVALID_OPTION(path ?? 'options', 'an object', received))
  for (const name of new Set([...names, ...required])) {
    if (ignored.includes(name)) continue
    if (!Object.hasOwn(checks, name)) throw new FST_BGT_UNKNOWN_OPTION(prefix + name, `${Object.keys(checks).join(', ')}${didYouMean(name, Object.keys(checks))}`)
    const [expected, accepts, show = received] = checks[name as keyof Options]
    const refuse = (received: string) => new FST_BGT_INVALID_OPTION(prefix + name, expected, received)
    const value = read(() => options[name as keyof Options], refuse)
    if (value === undefined && name in defaults) continue
    if (!read(() => accepts(value), refuse)) throw refuse(show(value))
    resolved[name] = value
  }
  return resolved as Options & Defaults
}
