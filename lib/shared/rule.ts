import type { Cron } from 'croner'
import type { ScheduleRule } from '../../types/backend'

/** The due times of a schedule. All times are in ms of `Date.now()`. */
export interface DueTimes {
  /** The first due time after a time; `null` if there is none. */
  next (after: number): number | null
  /** The last due time that is not after a time; `null` if there is none. */
  latest (until: number): number | null
}

/**
 * The due times of a rule.
 * @throws the error of croner for an expression that is none
 */
export function dueTimesOf (rule: ScheduleRule): DueTimes {
  return rule.every === null ? new CronTimes(rule.cron, rule.timezone) : new Multiples(rule.every)
}

/** The multiples of an interval since 1970, on which all processes agree. */
class Multiples implements DueTimes {
  readonly #every: number

  constructor (every: number) {
    this.#every = every
  }

  next (after: number): number {
    return (Math.floor(after / this.#every) + 1) * this.#every
  }

  latest (until: number): number {
    return Math.floor(until / this.#every) * this.#every
  }
}

/** The times of an expression. */
class CronTimes implements DueTimes {
  readonly #cron: Cron

  constructor (expression: string, timezone: string) {
    // Loaded at the first use: most applications have no schedule.
    const croner = require('croner') as typeof import('croner')
    this.#cron = new croner.Cron(expression, { timezone, mode: '5-or-6-parts' })
  }

  next (after: number): number | null {
    return this.#cron.nextRun(new Date(after))?.getTime() ?? null
  }

  latest (until: number): number | null {
    return this.#cron.previousRuns(1, new Date(until + 1))[0]?.getTime() ?? null
  }
}

/** Whether two rules have the same due times, by their text. */
export function isSameRule (a: ScheduleRule, b: ScheduleRule): boolean {
  return a.cron === b.cron && a.timezone === b.timezone && a.every === b.every
}
