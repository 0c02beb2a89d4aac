import { Cron } from 'croner'
import { test } from 'tap'
import type { ScheduleRule } from '../types/backend'
import { dueTimesOf, isSameRule } from '../lib/shared/rule'

const cron = (expression: string, timezone = 'UTC'): ScheduleRule => ({ cron: expression, timezone, every: null })
const every = (ms: number): ScheduleRule => ({ cron: null, timezone: null, every: ms })
const at = (text: string) => Date.parse(text)

/** A rule, an instant, and the due times that follow it, as a calendar on the wall has them. */
const TABLE: Array<[string, ScheduleRule, from: string, due: string[]]> = [
  ['each night', cron('0 3 * * *'), '2026-01-01T03:00:00Z', ['2026-01-02T03:00:00Z', '2026-01-03T03:00:00Z']],
  ['a millisecond before', cron('0 3 * * *'), '2026-01-01T02:59:59.999Z', ['2026-01-01T03:00:00Z']],
  ['steps', cron('*/20 * * * *'), '2026-01-01T00:00:00Z', ['2026-01-01T00:20:00Z', '2026-01-01T00:40:00Z', '2026-01-01T01:00:00Z']],
  ['ranges and lists', cron('0 9-10,17 * * *'), '2026-01-01T00:00:00Z', ['2026-01-01T09:00:00Z', '2026-01-01T10:00:00Z', '2026-01-01T17:00:00Z']],
  ['a range with steps', cron('10-30/10 4 * * *'), '2026-01-01T00:00:00Z', ['2026-01-01T04:10:00Z', '2026-01-01T04:20:00Z', '2026-01-01T04:30:00Z']],
  ['names', cron('0 0 * FEB mon-tue'), '2026-01-01T00:00:00Z', ['2026-02-02T00:00:00Z', '2026-02-03T00:00:00Z', '2026-02-09T00:00:00Z']],
  ['six fields', cron('*/15 59 23 31 12 *'), '2026-01-01T00:00:00Z', ['2026-12-31T23:59:00Z', '2026-12-31T23:59:15Z']],
  ['a nickname', cron('@monthly'), '2026-01-15T00:00:00Z', ['2026-02-01T00:00:00Z', '2026-03-01T00:00:00Z']],
  ['29 February', cron('0 12 29 2 *'), '2026-01-01T00:00:00Z', ['2028-02-29T12:00:00Z', '2032-02-29T12:00:00Z']],
  ['the last day of a month', cron('0 0 L * *'), '2028-01-31T00:00:00Z', ['2028-02-29T00:00:00Z', '2028-03-31T00:00:00Z', '2028-04-30T00:00:00Z']],
  ['the 31st', cron('0 0 31 * *'), '2026-01-31T00:00:00Z', ['2026-03-31T00:00:00Z', '2026-05-31T00:00:00Z']],
  ['the last Friday', cron('0 0 * * FRI#L'), '2026-01-01T00:00:00Z', ['2026-01-30T00:00:00Z', '2026-02-27T00:00:00Z']],
  // A single time that does not exist is due after the gap; one that comes twice is due once.
  ['Berlin, spring', cron('30 2 * * *', 'Europe/Berlin'), '2026-03-28T12:00:00Z', ['2026-03-29T01:00:00Z', '2026-03-30T00:30:00Z']],
  ['Berlin, autumn', cron('30 2 * * *', 'Europe/Berlin'), '2026-10-24T12:00:00Z', ['2026-10-25T00:30:00Z', '2026-10-26T01:30:00Z']],
  ['New York, spring', cron('30 2 * * *', 'America/New_York'), '2026-03-07T12:00:00Z', ['2026-03-08T07:00:00Z', '2026-03-09T06:30:00Z']],
  ['New York, autumn', cron('30 1 * * *', 'America/New_York'), '2026-10-31T12:00:00Z', ['2026-11-01T05:30:00Z', '2026-11-02T06:30:00Z']],
  // What goes by intervals runs through the repeated hour, and skips the one that is missing.
  ['Berlin, spring, every half hour', cron('*/30 * * * *', 'Europe/Berlin'), '2026-03-29T00:15:00Z', ['2026-03-29T00:30:00Z', '2026-03-29T01:00:00Z', '2026-03-29T01:30:00Z']],
  ['Berlin, autumn, every half hour', cron('*/30 * * * *', 'Europe/Berlin'), '2026-10-25T00:15:00Z', ['2026-10-25T00:30:00Z', '2026-10-25T01:00:00Z', '2026-10-25T01:30:00Z']],
  ['Berlin, the night around the change', cron('0 3 * * *', 'Europe/Berlin'), '2026-03-28T12:00:00Z', ['2026-03-29T01:00:00Z', '2026-03-30T01:00:00Z']],
  ['every second', every(1_000), '2026-01-01T00:00:00.001Z', ['2026-01-01T00:00:01Z', '2026-01-01T00:00:02Z']],
  ['every hour', every(3_600_000), '2026-01-01T00:00:00Z', ['2026-01-01T01:00:00Z', '2026-01-01T02:00:00Z']],
  ['every seven minutes', every(420_000), '1970-01-01T00:00:00Z', ['1970-01-01T00:07:00Z', '1970-01-01T00:14:00Z']]
]

test('due times are those of the calendar, of croner, and the same looked at from behind', async t => {
  for (const [name, rule, from, due] of TABLE) {
    const times = dueTimesOf(rule)
    let time = at(from)
    for (const expected of due.map(at)) {
      const next = times.next(time) as number
      t.equal(new Date(next).toISOString(), new Date(expected).toISOString(), name)
      t.equal(times.latest(next), next, `${name}: due itself`)
      t.equal(times.latest(next + 1), next, `${name}: just over`)
      const before = times.latest(next - 1) as number
      t.ok(before < next && times.next(before) === next, `${name}: the one before`)
      time = next
    }
    if (rule.cron !== null) t.same(new Cron(rule.cron, { timezone: rule.timezone }).nextRuns(due.length, new Date(from)).map(Number), due.map(at), `${name}: croner`)
  }
})

test('a date that never comes is never due', async t => {
  const times = dueTimesOf(cron('0 0 30 2 *'))
  t.equal(times.next(0), null)
  t.equal(times.latest(Date.now()), null)
})

test('rules are the same by their text', async t => {
  t.equal(isSameRule(cron('0 3 * * *'), cron('0 3 * * *')), true)
  t.equal(isSameRule(cron('0 3 * * *'), cron('0 4 * * *')), false)
  t.equal(isSameRule(cron('0 3 * * *'), cron('0 3 * * *', 'Europe/Berlin')), false)
  t.equal(isSameRule(cron('0 3 * * *'), every(1_000)), false)
})
