import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../index'
import { dashboard } from '../lib/dashboard'
import type { ActionResult, ScheduleView } from '../lib/dashboard/protocol'
import { detailsAt, openStream, OWN_PAGE } from './support/dashboard'
import { createApp, listen, settled, signal } from './support/server'

/* The schedules on the dashboard, and their button "Run now". */

const DAY = 86_400_000

async function serve (t: Test, options: BackgroundTasksOptions = {}) {
  const { app } = await createApp(t, { closeTimeout: 100, ...options })
  await app.register(dashboard, { prefix: '/tasks', payload: true })
  const { url } = await listen(app)
  const at = `${url}/tasks`
  const schedules = async () => (await (await fetch(`${at}/schedules`, { headers: OWN_PAGE })).json() as { schedules: ScheduleView[] }).schedules
  const run = async (id: string) => await (await fetch(`${at}/schedules/${encodeURIComponent(id)}/run`, { method: 'POST', headers: OWN_PAGE })).json() as ActionResult
  return { app, at, schedules, run }
}

test('schedules are listed with their rules and due times, and counted on the first screen', async t => {
  const report = defineTask('report', async () => {})
  const { at, schedules } = await serve(t, {
    tasks: [report],
    schedules: {
      'a/daily': { task: report, every: DAY },
      nightly: { task: report, cron: '0 3 * * *', timezone: 'Asia/Tokyo' }
    }
  })
  const before = Math.ceil((Date.now() + 1) / DAY) * DAY
  const [daily, nightly] = await schedules()
  const after = Math.ceil((Date.now() + 1) / DAY) * DAY
  t.match(daily, { id: 'a/daily', task: 'report', cron: null, timezone: null, every: DAY, last: null, lastId: null, skipped: 0 })
  t.ok([before, after].includes(daily!.next!))
  t.match(nightly, { id: 'nightly', cron: '0 3 * * *', timezone: 'Asia/Tokyo', every: null })
  t.equal(nightly!.next! % DAY, 18 * 3_600_000, 'three at night in Tokyo')
  t.equal((await (await openStream(t, `${at}/events`)).first).schedules, 2)
})

test('"run now" adds a run with the payload, unless the last one has not settled', async t => {
  const end = signal()
  const payloads: unknown[] = []
  const report = defineTask('report', async (payload: { days: number }) => {
    payloads.push(payload)
    await end.promise
  })
  const { app, at, schedules, run } = await serve(t, { tasks: [report], schedules: { 'a/report': { task: report, every: DAY, payload: { days: 3 } } } })
  t.teardown(() => end.resolve())
  const { done, id } = await run('a/report')
  t.equal(done, true)
  await settled(app, { running: 1 })
  t.same(payloads, [{ days: 3 }])
  t.match((await schedules())[0], { last: null, lastId: null }, 'it has not been due')
  t.match(await detailsAt(at, id!), { name: 'report', state: 'running' })
  t.same(await run('a/report'), { done: false })
  end.resolve()
  await settled(app, { completed: 1 })
  t.match(await run('a/report'), { done: true })
  await settled(app, { completed: 2 })
})

test('a schedule that does not exist does not run, and no other page can run one', async t => {
  const report = defineTask('report', async () => {})
  const { app, at, run } = await serve(t, { tasks: [report], schedules: { report: { task: report, every: DAY } } })
  t.same(await run('other'), { done: false })
  t.equal((await fetch(`${at}/schedules/report/run`, { method: 'POST' })).status, 403)
  t.equal((await fetch(`${at}/schedules`)).status, 403)
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('an application without schedules has none to show', async t => {
  const { at, schedules } = await serve(t)
  t.same(await schedules(), [])
  t.equal((await (await openStream(t, `${at}/events`)).first).schedules, 0)
})

test('nothing runs while the application closes', async t => {
  const asked = signal()
  const admitted = signal()
  const report = defineTask('report', async () => {})
  const { app } = await createApp(t, { tasks: [report], schedules: { report: { task: report, every: DAY } } })
  await app.register(dashboard, {
    prefix: '/tasks',
    preHandler: async () => {
      asked.resolve()
      await admitted.promise
    }
  })
  await app.ready()
  const answer = app.inject({ method: 'POST', url: '/tasks/schedules/report/run', headers: OWN_PAGE })
  await asked.promise
  await app.close()
  admitted.resolve()
  t.same((await answer).json(), { done: false })
})

test('a run that has failed can be run again, as a task of its own', async t => {
  let isBroken = true
  const report = defineTask('report', async () => { if (isBroken) throw new Error('x') })
  const { app, at, run } = await serve(t, { tasks: [report], schedules: { daily: { task: report, every: DAY } } })
  const { id } = await run('daily')
  await settled(app, { failed: 1 })
  isBroken = false
  t.match(await (await fetch(`${at}/tasks/${id}/run-again`, { method: 'POST', headers: OWN_PAGE })).json(), { done: true })
  await settled(app, { failed: 1, completed: 1 })
})
