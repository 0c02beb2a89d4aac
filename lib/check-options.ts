import { FST_BGT_INVALID_OPTION, FST_BGT_UNKNOWN_OPTION } from './errors'
import { received } from './received'

/** The longest wait that a timer of Node can make: 2^31 − 1 ms, 24.8 days. */
export const MAX_TIMER = 2_147_483_647

/** What an option must be, in words and as a test. */
export type Check = readonly [expected: string, accepts: (value: any) => boolean]

export type Checks<Options> = { readonly [name in keyof Options]-?: Check }

const millisecondsFrom = (least: number): Check => [
  `a number of milliseconds from ${least} to ${MAX_TIMER}`,
  value => typeof value === 'number' && value >= least && value <= MAX_TIMER
]
export const milliseconds = millisecondsFrom(0)
/** One after which something happens again: 0 would be without an end. */
export const period = millisecondsFrom(1)
export const limit: Check = ['a whole number from 1 on, or Infinity', value => value === Infinity || (Number.isSafeInteger(value) && value >= 1)]
export const count: Check = ['a whole number from 0 on', value => Number.isSafeInteger(value) && value >= 0]
export const flag: Check = ['a boolean', value => typeof value === 'boolean']
export const text: Check = ['a non-empty string', value => typeof value === 'string' && value !== '']
export const oneOf = (...values: string[]): Check => [values.map(value => `'${value}'`).join(' or '), value => values.includes(value)]

/**
 * Checks options and lays them over their defaults. One that is `undefined` and has a default is left out.
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION
 */
export function checkOptions<Options extends object, Defaults extends object> (
  options: Options, defaults: Defaults, checks: Checks<Options>
): Options & Defaults {
  const resolved = { ...defaults } as Record<string, unknown>
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(checks, name)) throw new FST_BGT_UNKNOWN_OPTION(name, Object.keys(checks).join(', '))
    if (value === undefined && name in defaults) continue
    const [expected, accepts] = checks[name as keyof Options]
    if (!accepts(value)) throw new FST_BGT_INVALID_OPTION(name, expected, received(value))
    resolved[name] = value
  }
  return resolved as Options & Defaults
}
