import FakeTimers from '@sinonjs/fake-timers'
import Fastify, { type FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../index'
import { until } from './support/until'

const HOUR = 3_600_000

/** Without a timer, which would be the fake clock's. */
const soon = <T>(what: string, get: () => T | undefined | null | false) => until<T>(what, get, () => new Promise(resolve => setImmediate(resolve)))

interface Line { msg: string, level: number, [field: string]: any }

/** An application whose clock is the test's, at midnight. */
async function start (t: Test, options: BackgroundTasksOptions, logger = true) {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: Date.parse('2026-06-01T00:00:00Z') })
  t.teardown(() => clock.uninstall())
  const lines: Line[] = []
  const app = Fastify(logger ? { logger: { level: 'debug', stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } } } : {}) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks, options)
  await app.ready()
  return { app, clock, lines }
}

const date = (text: string) => new Date(`2026-06-${text}Z`)

test('a schedule runs its task at each due time, with its payload', async t => {
  const runs: unknown[] = []
  const cleanUp = defineTask('clean-up', async (payload: { days: number }, ctx) => {
    runs.push([{ ...payload }, ctx.requestId, new Date().toISOString()])
    payload.days = 0
    return 'done'
  })
  const report = defineTask('report', async () => { runs.push('report') })
  const { app, clock } = await start(t, {
    tasks: [cleanUp, report],
    schedules: {
      nightly: { task: cleanUp, cron: '0 3 * * *', timezone: 'Europe/Berlin', payload: { days: 30 } },
      report: { task: report, every: 24 * HOUR }
    }
  })
  t.same(await app.backgroundTasks.schedules(), [
    { id: 'nightly', task: 'clean-up', cron: '0 3 * * *', timezone: 'Europe/Berlin', every: null, next: date('01T01:00:00'), last: null, lastId: null, skipped: 0 },
    { id: 'report', task: 'report', cron: null, timezone: null, every: 24 * HOUR, next: date('02T00:00:00'), last: null, lastId: null, skipped: 0 }
  ])
  clock.tick(HOUR - 1)
  await app.backgroundTasks.idle()
  t.same(runs, [])
  clock.tick(1)
  await app.backgroundTasks.idle()
  t.same(runs, [[{ days: 30 }, null, '2026-06-01T01:00:00.000Z']])
  const [nightly] = await app.backgroundTasks.schedules()
  t.match(nightly, { next: date('02T01:00:00'), last: date('01T01:00:00'), skipped: 0 })
  t.match(await app.backgroundTasks.find(nightly!.lastId!), { name: 'clean-up', state: 'completed', result: 'done' })
  clock.tick(23 * HOUR)
  await app.backgroundTasks.idle()
  t.equal(runs[1], 'report')
  clock.tick(HOUR)
  await app.backgroundTasks.idle()
  t.same(runs[2], [{ days: 30 }, null, '2026-06-02T01:00:00.000Z'])
  t.equal(app.backgroundTasks.stats().completed, 3)
})

test('a run whose last one has not settled is skipped, counted and logged; with overlap it runs', async t => {
  let ends: Array<() => void> = []
  const slow = defineTask('slow', () => new Promise<void>(resolve => { ends.push(resolve) }))
  const { app, clock, lines } = await start(t, {
    tasks: [slow],
    schedules: { alone: { task: slow, every: HOUR }, together: { task: slow, every: HOUR, overlap: true } }
  })
  clock.tick(HOUR)
  await soon('the first runs', () => ends.length === 2)
  clock.tick(HOUR)
  await soon('the second run', () => ends.length === 3)
  const [alone, together] = await app.backgroundTasks.schedules()
  t.match(alone, { last: date('01T02:00:00'), next: date('01T03:00:00'), skipped: 1 })
  t.match(together, { skipped: 0 })
  t.match(lines.filter(({ msg }) => msg === 'background task skipped: the last run of its schedule has not settled'), [
    { level: 40, schedule: { id: 'alone', due: '2026-06-01T02:00:00.000Z', last: alone!.lastId }, task: { name: 'slow' } }
  ])
  t.equal(await app.backgroundTasks.runSchedule('alone'), null)
  for (const end of ends) end()
  ends = []
  await app.backgroundTasks.idle()
  clock.tick(HOUR)
  await soon('the third runs', () => ends.length === 2)
  t.match((await app.backgroundTasks.schedules()).map(({ skipped }) => skipped), [1, 0])
  for (const end of ends) end()
})

test('a schedule can be run now', async t => {
  const runs: number[] = []
  const task = defineTask('task', (payload: number) => { runs.push(payload) })
  const { app } = await start(t, { tasks: [task], schedules: { a: { task, every: HOUR, payload: 7 } } })
  const handle = await app.backgroundTasks.runSchedule('a')
  t.equal(await handle?.settled(), 'completed')
  t.same(runs, [7])
  t.match(await app.backgroundTasks.schedules(), [{ next: date('01T01:00:00'), last: null, lastId: null }])
  await t.rejects(app.backgroundTasks.runSchedule('b'), { code: 'FST_BGT_UNKNOWN_SCHEDULE', message: "The schedule 'b' is not known here: the plugin option 'schedules' received [ 'a' ]" })
})

test('no due time comes twice, whatever becomes of the clock', async t => {
  const runs: string[] = []
  const task = defineTask('task', () => { runs.push(new Date().toISOString()) })
  const { app, clock } = await start(t, { tasks: [task], schedules: { a: { task, cron: '0 * * * *', timezone: 'UTC' } } })
  const idle = () => app.backgroundTasks.idle()
  clock.tick(HOUR)
  await idle()
  t.same(runs.splice(0), ['2026-06-01T01:00:00.000Z'])
  // Set back by half an hour.
  clock.setSystemTime(date('01T00:30:00'))
  clock.tick(HOUR)
  await idle()
  t.same(runs, [])
  clock.tick(HOUR / 2)
  await idle()
  t.same(runs.splice(0), ['2026-06-01T02:00:00.000Z'])
  // The machine has slept for five hours, and its timers with it.
  clock.setSystemTime(date('01T07:00:30'))
  clock.tick(60_000)
  await idle()
  t.equal(runs.length, 1)
  t.match(await app.backgroundTasks.schedules(), [{ last: date('01T07:00:00'), next: date('01T08:00:00') }])
})

test('a wait of more than 24.8 days ends at its time; meanwhile a process wakes once a minute, for all its schedules', async t => {
  const runs: string[] = []
  const task = defineTask('task', () => { runs.push(new Date().toISOString()) })
  const schedules = Object.fromEntries(['a', 'b', 'c'].map(id => [id, { task, cron: '0 0 1 9 *', timezone: 'UTC' }]))
  const { app, clock } = await start(t, { tasks: [task], schedules })
  t.equal(clock.countTimers(), 1)
  const { setTimeout } = globalThis
  let timers = 0
  globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) => { timers++; return setTimeout(...args) }) as typeof setTimeout
  clock.tick(HOUR)
  globalThis.setTimeout = setTimeout
  t.equal(timers, 60)
  clock.setSystemTime(new Date('2026-08-31T23:59:59.999Z'))
  clock.tick(60_000)
  await app.backgroundTasks.idle()
  t.equal(runs.length, 3)
  t.match(await app.backgroundTasks.schedules(), [{ last: new Date('2026-09-01T00:00:00Z') }, {}, {}])
})

test('a schedule ends with the application, and its timer does not hold the process', async t => {
  const task = defineTask('task', () => {})
  const { app, clock } = await start(t, { tasks: [task], schedules: { a: { task, every: HOUR } } })
  t.equal(clock.countTimers(), 1)
  await app.close()
  t.equal(clock.countTimers(), 0)
})

test('an application that closes while a schedule is due leaves no timer behind', async t => {
  let closed: Promise<unknown> | undefined
  const task = defineTask('task', () => { closed ??= app.close() })
  const { app, clock } = await start(t, { tasks: [task], schedules: { a: { task, every: HOUR } } })
  clock.tick(HOUR)
  await soon('the run', () => closed !== undefined)
  await closed
  t.equal(clock.countTimers(), 0)
})

test('what cannot be added is logged, and the schedule goes on', async t => {
  let end!: () => void
  const slow = defineTask('slow', () => new Promise<void>(resolve => { end = resolve }))
  const runs: number[] = []
  const quick = defineTask('quick', () => { runs.push(1) })
  const { app, clock, lines } = await start(t, { tasks: [slow, quick], maxPending: 1, schedules: { a: { task: quick, every: HOUR } } })
  app.backgroundTasks.add(slow)
  clock.tick(HOUR)
  t.match(lines.filter(({ msg }) => msg === 'background task of a schedule could not be added'), [
    { level: 50, err: { code: 'FST_BGT_OVERLOADED' }, schedule: { id: 'a', due: '2026-06-01T01:00:00.000Z' }, task: { name: 'quick' } }
  ])
  t.match(await app.backgroundTasks.schedules(), [{ last: date('01T01:00:00'), lastId: null, skipped: 0 }])
  await soon('the slow one', () => end)
  end()
  await app.backgroundTasks.idle()
  clock.tick(HOUR)
  await app.backgroundTasks.idle()
  t.same(runs, [1])
})

test('without a logger, what cannot be added is a warning of the process', async t => {
  const warnings: Array<Error & { code?: string }> = []
  const listen = (warning: Error) => { warnings.push(warning) }
  process.on('warning', listen)
  t.teardown(() => process.off('warning', listen))
  const task = defineTask('quick', () => {})
  const { app, clock } = await start(t, { tasks: [task], maxPending: 1, schedules: { a: { task, every: HOUR } } }, false)
  app.backgroundTasks.add({ delay: 2 * HOUR }, task)
  clock.tick(HOUR)
  await soon('the warning', () => warnings.find(({ code, message }) => code === 'FST_BGT_RUN_REFUSED' && message.includes("could not be added: 'quick'")))
  clock.tick(2 * HOUR)
})

test('captured: nothing is due, and what is run by hand is recorded', async t => {
  const task = defineTask('task', (_payload: number) => {})
  const { app, clock } = await start(t, { tasks: [task], mode: 'capture', schedules: { a: { task, every: HOUR, payload: 1 } } })
  t.equal(clock.countTimers(), 0)
  clock.tick(HOUR)
  t.same(await app.backgroundTasks.schedules(), [{ id: 'a', task: 'task', cron: null, timezone: null, every: HOUR, next: date('01T02:00:00'), last: null, lastId: null, skipped: 0 }])
  await app.backgroundTasks.idle()
  t.same(app.backgroundTasks.captured, [])
  const handle = await app.backgroundTasks.runSchedule('a')
  t.equal(await handle?.settled(), 'captured')
  await app.backgroundTasks.runSchedule('a')
  await app.backgroundTasks.idle()
  t.same(app.backgroundTasks.captured, Array.from({ length: 2 }, () => ({ name: 'task', args: [], payload: 1, requestId: null })))
})
