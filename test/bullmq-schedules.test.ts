import { test } from 'tap'
import { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { EACH_SECOND, newQueue, schedule, scheduleSuite, startWorker } from './support/schedules'
import { createApp, signal } from './support/server'
import { noOwnRedis, noRedis, ownRedis, redis } from './support/services'
import { until } from './support/until'

test('schedules on Redis', { skip: noRedis }, async t => {
  scheduleSuite(t, (await redis(t)).url)
})

test('Redis is away: the schedule goes on when it is back', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const one = await startWorker(t, bullmq({ connection: server.url, queue: newQueue() }))
  await one.keep([schedule('s', EACH_SECOND)])
  await until('it runs', () => one.ran.length > 0)
  await server.stop('SIGKILL')
  await until('the trouble is logged', () => one.log.some(({ msg }) => msg.endsWith('is in trouble')))
  const count = one.ran.length
  await server.start()
  await until('it runs again', () => one.ran.length > count)
})

test('an application on Redis: its schedules and their runs, in the worker and in a process that only adds', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = newQueue()
  const gate = signal()
  const seen: unknown[] = []
  const task = defineTask('report', async (payload: unknown) => {
    seen.push(payload)
    await gate.promise
  })
  const options = () => ({
    tasks: [task], backend: bullmq({ connection: url, queue }), schedules: { each: { task, every: 1_000, payload: { days: 30 } }, yearly: { task, cron: '0 0 1 1 *', timezone: 'UTC' } }
  })
  const { app: web } = await createApp(t, { ...options(), worker: false })
  await web.ready()
  t.match(await web.backgroundTasks.schedules(), [{ id: 'each', next: null, last: null }, { id: 'yearly', next: null }])
  const { app } = await createApp(t, options())
  await app.ready()
  const [each] = await until('one is skipped', async () => {
    const states = await web.backgroundTasks.schedules()
    return states[0]!.skipped > 0 && states
  })
  t.match(each, { task: 'report', every: 1_000, cron: null, next: Date, last: Date, lastId: String })
  t.same(seen, [{ days: 30 }])
  t.equal(await web.backgroundTasks.runSchedule('each'), null, 'the last run has not settled')
  const handle = await web.backgroundTasks.runSchedule('yearly')
  gate.resolve()
  t.equal(await handle!.settled(), 'completed')
  t.match(await app.backgroundTasks.find(each!.lastId!), { name: 'report', state: 'completed' })
  t.same(seen.slice(0, 2), [{ days: 30 }, undefined])
})
