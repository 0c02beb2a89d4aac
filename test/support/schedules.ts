import type { Queue } from 'bullmq'
import { randomUUID } from 'node:crypto'
import pino from 'pino'
import type { Test } from 'tap'
import { bullmq } from '../../lib/backends/bullmq'
import { resolveOptions } from '../../lib/backends/bullmq/options'
import { PostgresServer } from '../../lib/backends/bullmq/postgres/server'
import { RedisServer } from '../../lib/backends/bullmq/redis/server'
import type { ScheduleRecord, ScheduleRecords } from '../../lib/backends/bullmq/schedule-record'
import { runIdOf } from '../../lib/backends/bullmq/schedules'
import type { Delivery, ScheduleRule, ScheduleState, StoredSchedule, TaskBackend } from '../../types/backend'
import { type LogLine, signal } from './server'
import { NEVER_MS, until } from './until'

/*
 * Schedules of BullMQ's backend, by its port, where a test of the whole plugin would have to wait for a year, or for a crash. Several
 * backends in one process stand for processes.
 */

/** A rule that is due each second. */
export const EACH_SECOND: ScheduleRule = { cron: null, timezone: null, every: 1_000 }

/** A rule that is due once a year: in no test. */
export const EACH_YEAR: ScheduleRule = { cron: '0 0 1 1 *', timezone: 'UTC', every: null }

export function schedule (id: string, rule: ScheduleRule, more: { overlap?: boolean, name?: string, payload?: string } = {}): StoredSchedule {
  const { overlap = false, name = 'task', payload = null } = more
  const task = { name, label: name, payload, requestId: null, attempts: 1, backoff: null, delay: 0, timeout: 0, dedupe: overlap ? null : `$schedule:${id}`, carrier: null }
  return { id, rule, overlap, task }
}

/** A worker of a queue, what it has run, and what it has logged. */
export interface ScheduleWorker {
  readonly backend: Required<TaskBackend>
  readonly ran: Array<Delivery['task']>
  readonly log: LogLine[]
  /** Keeps schedules from now on. */
  keep (schedules: StoredSchedule[], tasks?: string[]): Promise<void>
  state (id: string): Promise<ScheduleState | undefined>
  close (): Promise<void>
}

/** @param run what a task does */
export async function startWorker (t: Test, backend: TaskBackend, run: () => Promise<unknown> = async () => {}): Promise<ScheduleWorker> {
  const lines: LogLine[] = []
  const log = pino({ level: 'debug' }, { write: (line: string) => { lines.push(JSON.parse(line)) } })
  const ran: Array<Delivery['task']> = []
  let closed: Promise<void> | null = null
  const close = () => {
    closed ??= backend.pause().then(() => backend.close(NEVER_MS))
    return closed
  }
  t.teardown(close)
  await backend.start(log, () => log, 5_000, new Map())
  await backend.work(10, async ({ task }) => {
    ran.push(task)
    return { state: 'completed', result: await run() }
  }, { names: new Set(), free: () => 0 })
  return {
    backend: backend as Required<TaskBackend>,
    ran,
    log: lines,
    close,
    keep: (schedules, tasks = ['task']) => backend.schedule!(schedules, tasks),
    state: async id => (await backend.schedules!([id]))[0]
  }
}

export function newQueue (): string {
  return `schedules-${randomUUID()}`
}

const YEAR_MS = 31_557_600_000

interface Kept {
  records: ScheduleRecords
  queue: Queue
  /** Changes a record, as time or another process would. */
  change (id: string, fields: (record: ScheduleRecord) => Partial<ScheduleRecord>): Promise<void>
}

/** The records of a queue, beside those of its workers. */
export async function openKept (t: Test, connection: string, name: string): Promise<Kept> {
  const ServerOf = connection.startsWith('postgres') ? PostgresServer : RedisServer
  const server = new ServerOf(resolveOptions({ connection, queue: name }), error => { throw error })
  server.load()
  const queue = await server.openQueue(NEVER_MS)
  t.teardown(async () => {
    await queue.close()
    await server.end()
  })
  await queue.waitUntilReady()
  const records = server.schedules(queue)
  return {
    records,
    queue,
    async change (id, fields) {
      const text = (await records.read([id])).texts.get(id) as string
      const record = JSON.parse(text) as ScheduleRecord
      t.equal(await records.swap(id, text, JSON.stringify({ ...record, ...fields(record) })), true)
    }
  }
}

/** The same tests for both servers. They wait for seconds to pass, so they do it together. */
export function scheduleSuite (t: Test, connection: string): void {
  t.jobs = 8
  const worker = (t: Test, queue: string, run?: () => Promise<unknown>) => startWorker(t, bullmq({ connection, queue }), run)

  t.test('each due time runs once in three workers; the first start runs nothing at once', { buffered: true }, async t => {
    const queue = newQueue()
    const workers = await Promise.all([1, 2, 3].map(() => worker(t, queue)))
    t.same(await workers[0]!.state('s'), undefined)
    await Promise.all(workers.map(({ keep }) => keep([schedule('s', EACH_SECOND, { overlap: true, payload: '[1]' })])))
    const lastDue = (after: number) => until(`a due time after ${after}`, async () => {
      const { last } = (await workers[0]!.state('s'))!
      return last !== null && last >= after && last
    })
    // The workers have started by then.
    const first = await lastDue((await workers[0]!.state('s'))!.next! + 1_000)
    await lastDue(first + 3_000)
    for (const { backend } of workers) await backend.pause()
    const { last, next, skipped } = (await workers[0]!.state('s'))!
    t.equal(next, last! + 1_000)
    t.equal(skipped, 0)
    const ran = () => workers.flatMap(({ ran }) => ran.map(({ id }) => id))
    for (let due = first; due < last!; due += 1_000) await until(`the run of ${due}`, () => ran().includes(runIdOf(queue, 's', due)))
    t.equal(new Set(ran()).size, ran().length)
    t.match(workers.flatMap(({ ran }) => ran)[0], { name: 'task', payload: '[1]', requestId: null })
  })

  t.test('what was due while nothing ran is one run, for the latest due time; a second worker adds none', { buffered: true }, async t => {
    const queue = newQueue()
    const first = await worker(t, queue)
    await first.keep([schedule('s', EACH_YEAR)])
    const { next } = (await first.state('s'))!
    await first.close()
    const kept = await openKept(t, connection, queue)
    await kept.change('s', ({ takenUntil }) => ({ takenUntil: takenUntil - 3 * YEAR_MS }))
    const workers = await Promise.all([1, 2].map(() => worker(t, queue)))
    await Promise.all(workers.map(({ keep }) => keep([schedule('s', EACH_YEAR)])))
    await until('the run', async () => (await workers[0]!.state('s'))!.lastId)
    const state = (await workers[1]!.state('s'))!
    t.match(state, { next, skipped: 0 })
    t.equal(state.last, Date.UTC(new Date(next!).getUTCFullYear() - 1, 0))
    await until('it has run', async () => (await workers[0]!.backend.find(state.lastId!))?.state === 'completed')
    t.same(workers.flatMap(({ ran }) => ran).map(({ id }) => id), [state.lastId])
  })

  t.test('a run whose predecessor has not settled is skipped, counted and logged', { buffered: true }, async t => {
    const gate = signal()
    const one = await worker(t, newQueue(), () => gate.promise)
    await one.keep([schedule('s', EACH_SECOND)])
    const state = await until('two are skipped', async () => {
      const state = (await one.state('s'))!
      return state.skipped >= 2 && state
    })
    t.equal(one.ran.length, 1)
    const { id } = one.ran[0]!
    t.equal(state.lastId, id)
    t.match(one.log.filter(({ msg }) => msg.startsWith('background task skipped'))[0], { level: 40, schedule: { id: 's', last: id }, task: { name: 'task' } })
    gate.resolve()
    await until('the next one runs', () => one.ran.length >= 2)
  })

  t.test('a due time that another process has taken and left: its run is stored, once', { buffered: true }, async t => {
    const queue = newQueue()
    const one = await worker(t, queue)
    await one.keep([schedule('s', EACH_YEAR)])
    await one.close()
    const kept = await openKept(t, connection, queue)
    const leave = () => kept.change('s', ({ takenUntil }) => ({ taken: [{ due: Date.UTC(2020, 0), by: 'dead', since: takenUntil - 60_000 }] }))
    await leave()
    const two = await worker(t, queue)
    await two.keep([schedule('s', EACH_YEAR)])
    const lastId = await until('the run is stored', async () => (await two.state('s'))!.lastId)
    await until('it has run', async () => (await two.backend.find(lastId!))?.state === 'completed')
    await two.backend.pause()
    // As if the process had died after it had stored the run.
    await leave()
    await two.backend.resume()
    await until('it is ended', async () => {
      const { texts } = await kept.records.read(['s'])
      return (JSON.parse(texts.get('s')!) as ScheduleRecord).taken.length === 0
    })
    t.match(await two.state('s'), { lastId, skipped: 0 })
    t.same(two.ran.map(({ id }) => id), [lastId])
  })

  t.test('the rule of the last start counts, also for an older worker; what is kept besides stays', { buffered: true }, async t => {
    const queue = newQueue()
    const older = await worker(t, queue)
    await older.keep([schedule('s', EACH_SECOND, { overlap: true })])
    await until('it runs', () => older.ran.length > 0)
    const newer = await worker(t, queue)
    await newer.keep([schedule('s', EACH_YEAR)])
    t.match(newer.log.filter(({ msg }) => msg.startsWith('schedule changed')), [{ level: 30, schedule: { id: 's' } }])
    const state = (await newer.state('s'))!
    t.match(state, { rule: EACH_YEAR, next: Date.UTC(new Date().getUTCFullYear() + 1, 0) })
    t.type(state.last, 'number')
    const kept = await openKept(t, connection, queue)
    const time = async () => (await kept.records.read([])).time
    const begin = await time()
    await until('the older rule was due once more', async () => await time() > begin + 1_500)
    t.equal((await newer.state('s'))!.last, state.last, 'the older worker takes no due time')
    await older.keep([schedule('s', EACH_SECOND, { overlap: true, payload: '2' })])
    await until('it runs again', () => [...older.ran, ...newer.ran].some(({ payload }) => payload === '2'))
  })

  t.test('a schedule that the application has no longer is removed; that of another application stays', { buffered: true }, async t => {
    const queue = newQueue()
    const mine = await worker(t, queue)
    const other = await worker(t, queue)
    await mine.keep([schedule('a', EACH_SECOND, { overlap: true }), schedule('b', EACH_YEAR)], ['task', 'more'])
    await other.keep([schedule('c', EACH_YEAR, { name: 'other' })], ['other'])
    const next = await worker(t, queue)
    await next.keep([schedule('b', EACH_YEAR)], ['more', 'new'])
    t.same((await next.backend.schedules(['a', 'b', 'c'])).map(({ id }) => id).sort(), ['b', 'c'])
    t.match(next.log.filter(({ msg }) => msg.startsWith('schedule removed')), [{ level: 30, schedule: { id: 'a' }, task: { name: 'task' } }])
    const ran = [...mine.ran]
    const { records } = await openKept(t, connection, queue)
    const { time } = await records.read([])
    await until('two seconds later', async () => (await records.read([])).time > time + 2_000)
    t.same(mine.ran.slice(ran.length).length <= 1, true, 'the older worker stores no more')
    await next.keep([], ['more'])
    t.same((await next.backend.schedules(['a', 'b', 'c'])).map(({ id }) => id), ['c'])
    t.same(await next.backend.schedules([]), [])
  })

  t.test('a worker that is closed while it begins stores nothing', { buffered: true }, async t => {
    const queue = newQueue()
    const one = await worker(t, queue)
    const begins = one.keep([schedule('s', EACH_SECOND)]).catch(() => {})
    await one.close()
    await begins
    t.same(one.ran, [])
  })
}
