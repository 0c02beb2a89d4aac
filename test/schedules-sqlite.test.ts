import FakeTimers from '@sinonjs/fake-timers'
import { join } from 'node:path'
import pino from 'pino'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../index'
import { sqlite } from '../lib/backends/sqlite'
import { createApp } from './support/conformance'
import { schedule } from './support/schedules'
import { noSqlite, rawConnection } from './support/sqlite'
import { work } from './support/stub-backend'
import { until } from './support/until'

const MINUTE = 60_000
const soon = <T>(what: string, get: () => Promise<T | false> | T | false) => until<T>(what, get as () => T, () => new Promise(resolve => setImmediate(resolve)))

interface Line { msg: string, level: number, [field: string]: any }

/** A clock that all applications of a test share, and a file. */
function place (t: Test) {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: Date.parse('2026-06-01T00:00:00Z') })
  t.teardown(() => clock.uninstall())
  const file = join(t.testdir({}), 'tasks.db')
  const lines: Line[] = []
  const logger = { level: 'debug', stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } }
  const start = async (options: BackgroundTasksOptions) => {
    const app = await createApp(t, { ...options, backend: sqlite({ file, pollInterval: 5 }) }, logger)
    await app.ready()
    return app
  }
  return { clock, file, lines, start }
}

const date = (text: string) => new Date(`2026-06-${text}Z`)
const hasRun = (runs: string[], count: number) => soon(`${count} runs`, () => runs.length === count)

function recorded (name = 'report') {
  const runs: string[] = []
  return { runs, task: defineTask(name, async (payload: unknown) => { runs.push(`${new Date().toISOString().slice(11, 19)} ${JSON.stringify(payload)}`) }) }
}

test('what was due while all was down runs once, at the next start; what comes then, at its time', { skip: noSqlite }, async t => {
  const { clock, start } = place(t)
  const { runs, task } = recorded()
  const options = { tasks: [task], schedules: { a: { task, every: 10 * MINUTE, payload: 1 } } }
  const first = await start(options)
  t.match(await first.backgroundTasks.schedules(), [{ id: 'a', next: date('01T00:10:00'), last: null, lastId: null, skipped: 0 }])
  t.same(runs, [], 'the first start runs nothing')
  clock.tick(10 * MINUTE)
  await hasRun(runs, 1)
  await first.close()
  clock.tick(55 * MINUTE)
  const second = await start(options)
  await hasRun(runs, 2)
  t.match(await second.backgroundTasks.schedules(), [{ next: date('01T01:10:00'), last: date('01T01:00:00') }])
  await second.close()
  const third = await start(options)
  clock.tick(5 * MINUTE)
  await hasRun(runs, 3)
  t.same(runs, ['00:10:00 1', '01:05:00 1', '01:10:00 1'])
  const lastId = (await third.backgroundTasks.schedules())[0]!.lastId!
  await soon('the end', async () => (await third.backgroundTasks.find(lastId))?.state === 'completed')
})

test('several processes: each due time is stored once, and one that only adds sees the state', { skip: noSqlite }, async t => {
  const { clock, start } = place(t)
  const { runs, task } = recorded()
  const options = { tasks: [task], schedules: { a: { task, every: MINUTE } } }
  const [first] = await Promise.all([start(options), start(options), start(options)])
  const adder = await start({ ...options, worker: false })
  for (let run = 1; run <= 5; run++) {
    clock.tick(MINUTE)
    await hasRun(runs, run)
    await soon('the end', async () => (await adder.backgroundTasks.schedules())[0]!.last?.getTime() === Date.now() && first!.backgroundTasks.stats().running === 0)
  }
  const last = await adder.backgroundTasks.schedules()
  t.match(last, [{ last: date('01T00:05:00'), next: date('01T00:06:00'), skipped: 0 }])
  t.same(runs.length, 5)
})

test('a process that only adds schedules nothing', { skip: noSqlite }, async t => {
  const { clock, start } = place(t)
  const { task } = recorded()
  const app = await start({ tasks: [task], schedules: { a: { task, every: MINUTE } }, worker: false })
  t.equal(clock.countTimers(), 0)
  t.same(await app.backgroundTasks.schedules(), [{ id: 'a', task: 'report', cron: null, timezone: null, every: MINUTE, next: null, last: null, lastId: null, skipped: 0 }])
  await app.close()
  t.match(await app.backgroundTasks.schedules(), [{ next: null }])
})

test('a run whose last one has not settled is skipped, counted and logged; with overlap it is stored', { skip: noSqlite }, async t => {
  const { clock, lines, start } = place(t)
  const ends: Array<() => void> = []
  const slow = defineTask('slow', () => new Promise<void>(resolve => { ends.push(resolve) }))
  const app = await start({ tasks: [slow], schedules: { alone: { task: slow, every: MINUTE }, together: { task: slow, every: MINUTE, overlap: true } } })
  clock.tick(MINUTE)
  await soon('the first runs', () => ends.length === 2)
  const lastId = (await app.backgroundTasks.schedules())[0]!.lastId!
  clock.tick(MINUTE)
  await soon('the second run', () => ends.length === 3)
  t.match(await app.backgroundTasks.schedules(), [{ last: date('01T00:02:00'), lastId, skipped: 1 }, { skipped: 0 }])
  t.match(lines.filter(({ msg }) => msg === 'background task skipped: the last run of its schedule has not settled'), [
    { level: 40, schedule: { id: 'alone', due: '2026-06-01T00:02:00.000Z', last: lastId }, task: { name: 'slow' } }
  ])
  t.equal(await app.backgroundTasks.runSchedule('alone'), null)
  t.equal((await app.backgroundTasks.runSchedule('together'))?.state, 'stored')
  await soon('the run by hand', () => ends.length === 4)
  for (const end of ends.splice(0)) end()
  await soon('the ends', () => app.backgroundTasks.stats().running === 0)
  const handle = await app.backgroundTasks.runSchedule('alone')
  await soon('the run by hand', () => ends.length === 1)
  ends[0]!()
  await soon('its end', async () => (await app.backgroundTasks.find(handle!.id))?.state === 'completed')
})

test('a schedule that is no longer in the options is removed; one of another application stays', { skip: noSqlite }, async t => {
  const { lines, start, clock } = place(t)
  const mine = recorded('mine')
  const also = recorded('also')
  const other = recorded('other')
  const every = MINUTE
  const neighbour = await start({ tasks: [other.task], schedules: { theirs: { task: other.task, every } } })
  const first = await start({ tasks: [mine.task, also.task], schedules: { a: { task: mine.task, every }, b: { task: also.task, every } } })
  await first.close()
  const second = await start({ tasks: [mine.task], schedules: { a: { task: mine.task, every } } })
  t.match(lines.filter(({ msg }) => msg.startsWith('schedule removed')), [{ level: 30, schedule: { id: 'b' }, task: { name: 'also' } }])
  clock.tick(MINUTE)
  // Each may be handed the run of the other first, and gives it back.
  await soon('both runs', async () => (await Promise.all([second, neighbour].map(app => app.backgroundTasks.schedules()))).flat().every(({ last }) => last?.getTime() === Date.now()))
  await second.close()
  const third = await start({ tasks: [mine.task, also.task], schedules: {} })
  t.match(lines.filter(({ msg }) => msg.startsWith('schedule removed')), [{}, { schedule: { id: 'a' } }])
  await third.close()
})

test('the rule of the process that was started last counts; the older one goes on with what has not changed', { skip: noSqlite }, async t => {
  const { clock, lines, start } = place(t)
  const { runs, task } = recorded()
  const older = await start({ tasks: [task], schedules: { a: { task, every: MINUTE, payload: 'old' }, b: { task, every: 10 * MINUTE, payload: 'b' } } })
  clock.tick(MINUTE)
  await hasRun(runs, 1)
  const newer = await start({ tasks: [task], schedules: { a: { task, cron: '*/5 * * * *', timezone: 'UTC', payload: 'new' }, b: { task, every: 10 * MINUTE, payload: 'new b' } } })
  t.match(lines.filter(({ msg }) => msg.startsWith('schedule changed')), [{ schedule: { id: 'a', next: '2026-06-01T00:05:00.000Z' } }])
  for (let minute = 2; minute < 5; minute++) clock.tick(MINUTE)
  t.match(await older.backgroundTasks.schedules(), [{ cron: '*/5 * * * *', timezone: 'UTC', every: null, last: date('01T00:01:00'), next: date('01T00:05:00') }, {}])
  clock.tick(MINUTE)
  await hasRun(runs, 2)
  await newer.close()
  clock.tick(5 * MINUTE)
  // The older process may just have been looking, and set its alarm for a minute that is over.
  await soon('3 runs', () => {
    clock.tick(0)
    return runs.length === 3
  })
  t.same(runs, ['00:01:00 "old"', '00:05:00 "new"', '00:10:00 "new b"'])
})

test('a rule that comes back is in force again in the process that has been running all the time', { skip: noSqlite }, async t => {
  const { clock, start } = place(t)
  const { runs, task } = recorded()
  const options = { tasks: [task], schedules: { a: { task, every: 10 * MINUTE } } }
  await start(options)
  const other = await start({ tasks: [task], schedules: { a: { task, every: 60 * MINUTE } } })
  clock.tick(10 * MINUTE)
  await soon('the look of the first', () => true)
  await other.close()
  const again = await start(options)
  await again.close()
  for (let run = 1; run <= 3; run++) {
    clock.tick(10 * MINUTE)
    await hasRun(runs, run)
  }
  t.same(runs.map(run => run.slice(0, 5)), ['00:20', '00:30', '00:40'])
})

test('a paused process stores no runs, and makes up for them when it goes on', { skip: noSqlite }, async t => {
  const { clock, file } = place(t)
  const { runs, task } = recorded()
  const backend = sqlite({ file })
  const app = await createApp(t, { tasks: [task], backend, schedules: { a: { task, every: MINUTE } } })
  await app.ready()
  await backend.pause()
  clock.tick(3 * MINUTE)
  t.equal((await app.backgroundTasks.schedules())[0]!.last, null)
  await backend.resume!()
  await hasRun(runs, 1)
  t.match(await app.backgroundTasks.schedules(), [{ last: date('01T00:03:00') }])
})

test('a file without the table gets it; rows that cannot be read are written anew', { skip: noSqlite }, async t => {
  const { clock, file, lines, start } = place(t)
  const { runs, task } = recorded()
  const options = { tasks: [task], schedules: { a: { task, every: MINUTE } } }
  await (await start({ tasks: [task] })).close()
  const raw = rawConnection(file)
  t.teardown(() => raw.close())
  raw.exec('DROP TABLE schedules')
  await (await start(options)).close()
  for (const [schedule, tasks] of [['{', '['], ['5', '{}'], ['{}', '["report"]'], ['{"rule":{}}', '[1]']]) {
    raw.exec(`UPDATE schedules SET schedule = '${schedule}', tasks = '${tasks}'`)
    const adder = await start({ ...options, worker: false })
    t.match(await adder.backgroundTasks.schedules(), [{ next: null }])
    await adder.close()
    const app = await start(options)
    clock.tick(MINUTE)
    await hasRun(runs, 1)
    runs.length = 0
    await app.close()
  }
  raw.exec("INSERT INTO schedules (id, schedule, tasks) VALUES ('broken', '{', '[\"report\"]')")
  await (await start(options)).close()
  t.match(lines.filter(({ msg }) => msg.startsWith('schedule removed')), [{ schedule: { id: 'broken' }, task: { name: '' } }])
})

test('runs that the file refuses are logged, and stored when it takes them', { skip: noSqlite }, async t => {
  const { clock, file, lines, start } = place(t)
  const { runs, task } = recorded()
  const app = await start({ tasks: [task], schedules: { a: { task, every: MINUTE } } })
  const raw = rawConnection(file)
  t.teardown(() => raw.close())
  raw.exec('ALTER TABLE schedules RENAME TO elsewhere')
  clock.tick(MINUTE)
  await soon('the line', () => lines.some(({ msg, err }) => msg === 'SQLite: the runs of schedules could not be stored' && /no such table/.test(err.message)))
  clock.tick(1_000)
  raw.exec('ALTER TABLE elsewhere RENAME TO schedules')
  await soon('the run', () => { clock.tick(1_000); return runs.length === 1 })
  t.match(await app.backgroundTasks.schedules(), [{ last: date('01T00:01:00') }])
})

test('by the port: a pause while it begins, a rule that is never due, a close while a run is due', { skip: noSqlite }, async t => {
  const { clock, file, lines } = place(t)
  const worker = async () => {
    const backend = sqlite({ file })
    t.teardown(() => backend.close(0))
    const log = pino({ level: 'debug' }, { write: (line: string) => { lines.push(JSON.parse(line)) } })
    await backend.start(log, () => log, 5_000, new Map())
    await work(backend, 1, async () => ({ state: 'completed', result: undefined }))
    return backend
  }
  const first = await worker()
  const begun = first.schedule!([schedule('a', { cron: null, timezone: null, every: MINUTE })], ['task'])
  await first.pause()
  await begun
  t.equal(clock.countTimers(), 0)
  t.match(await first.schedules!(['a', 'b']), [{ id: 'a', task: 'task', next: date('01T00:01:00').getTime() }])
  await first.close(0)

  const second = await worker()
  await second.schedule!([schedule('a', { cron: '0 0 30 2 *', timezone: 'UTC', every: null })], ['task'])
  t.match(lines.filter(({ msg }) => msg.startsWith('schedule changed')), [{ schedule: { id: 'a', next: null } }])
  t.match(await second.schedules!(['a']), [{ next: null, last: null }])
  t.equal(clock.countTimers(), 0)
  await second.close(0)

  const third = await worker()
  await third.schedule!([schedule('a', { cron: null, timezone: null, every: MINUTE })], ['task'])
  clock.tick(MINUTE)
  await third.close(0)
  const fourth = await worker()
  t.match(await fourth.schedules!(['a']), [{ last: date('01T00:01:00').getTime() }], 'what was to be written is written')
  t.same(lines.filter(({ msg }) => msg.startsWith('SQLite: the runs')), [])
})
