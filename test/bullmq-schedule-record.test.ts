import { test } from 'tap'
import { begun, ended, LEASE_MS, recordOf, type ScheduleRecord, take, untilNext } from '../lib/backends/bullmq/schedule-record'
import { dueTimesOf } from '../lib/shared/rule'
import { EACH_SECOND, schedule } from './support/schedules'

// What becomes of a record when clocks are set, and when processes are slow.

const times = dueTimesOf(EACH_SECOND)
const { rule, overlap, task } = schedule('s', EACH_SECOND)
const record: ScheduleRecord = { rule, overlap, task, tasks: ['task'], takenUntil: 5_000, taken: [], last: null, lastId: null, skipped: 0 }

test('due times that have come are taken one after the other; at a start only the latest', async t => {
  t.equal(take(record, times, 5_999, 'me', false), null)
  t.match(take(record, times, 8_500, 'me', false), { due: 6_000, record: { last: 6_000, takenUntil: 6_000, taken: [{ due: 6_000, by: 'me', since: 8_500 }] } })
  t.match(take(record, times, 8_500, 'me', true), { due: 8_000, record: { last: 8_000, takenUntil: 8_000 } })
  t.equal(untilNext(record, times, 5_400), 600)
})

test('due times of a minute that nobody took are one', async t => {
  t.equal(take(record, times, 66_000, 'me', false)!.due, 6_000)
  t.equal(take(record, times, 66_500, 'me', false)!.due, 66_000)
})

test('a server whose clock goes back gives no due time twice', async t => {
  const taken = take(record, times, 6_100, 'me', false)!.record
  const over = ended(taken, 6_000, 'id')
  t.match(over, { lastId: 'id', taken: [], skipped: 0 })
  t.equal(take(over, times, 1_000, 'me', true), null)
  t.equal(untilNext(over, times, 1_000), 6_000)
})

test('a due time that a process has taken is left to it for a while', async t => {
  const taken = take(record, times, 6_100, 'other', false)!.record
  t.equal(take(taken, times, 6_900, 'me', false), null)
  t.match(take(taken, times, 6_101 + LEASE_MS, 'me', false), { due: 6_000, record: { last: 6_000, taken: [{ due: 6_000, by: 'me' }] } })
  t.match(take(taken, times, 6_200, 'other', false), { due: 6_000 }, 'its own it tries again')
  t.match(take(taken, times, 0, 'me', false), { due: 6_000 }, 'also where the clock was set')
  t.equal(untilNext(taken, times, 6_900), 100)
})

test('a run that two processes have stored counts once, and so does one that both have skipped', async t => {
  const taken = take(record, times, 6_100, 'other', false)!.record
  const skipped = ended(taken, 6_000, null)
  t.match(skipped, { skipped: 1, lastId: null, taken: [] })
  t.equal(ended(skipped, 6_000, null), skipped)
})

test('a rule that is never due is waited for without a timer', async t => {
  const never = dueTimesOf({ cron: '0 0 30 2 *', timezone: 'UTC', every: null })
  t.equal(take(record, never, 6_000, 'me', true), null)
  t.equal(untilNext(record, never, 6_000), Infinity)
})

test('a rule that begins where the clock was set back gives no due time twice', async t => {
  const over = ended(take(record, times, 6_100, 'me', false)!.record, 6_000, 'id')
  t.equal(begun(over, schedule('s', EACH_SECOND), ['task'], 1_000).takenUntil, 6_000)
  t.equal(begun(over, schedule('s', EACH_SECOND), ['task'], 9_000).takenUntil, 9_000)
  t.match(begun(null, schedule('s', EACH_SECOND), ['task'], 9_000), { takenUntil: 9_000, last: null, skipped: 0 })
})

test('a text that is no record is none', async t => {
  t.same(recordOf(JSON.stringify(record)), record)
  const never = { cron: 'x', timezone: 'UTC', every: null }
  for (const text of ['', '{', 'null', '{}', ...[{ rule: never }, { tasks: 1 }, { taken: null }, { task: null }].map(flaw => JSON.stringify({ ...record, ...flaw }))]) t.equal(recordOf(text), null, text)
})
