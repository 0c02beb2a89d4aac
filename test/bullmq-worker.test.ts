import { once } from 'node:events'
import { randomUUID } from 'node:crypto'
import Redis from 'ioredis'
import { test } from 'tap'
import { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { TaskPool } from '../lib/backends/bullmq/postgres/pool'
import { RedisServer } from '../lib/backends/bullmq/redis/server'
import { createApp, signal, turns } from './support/server'
import { noPostgres, noRedis, postgres, redis } from './support/services'
import { until } from './support/until'

// A worker tells its troubles by BullMQ's events, classes and codes.

test('Redis: a lock that cannot be renewed is logged once, about its task, and is no trouble of the server', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const queue = `worker-${randomUUID()}`
  const gate = signal()
  const waits = defineTask('waits', async () => { await gate.promise })
  const { app, log } = await createApp(t, { tasks: [waits], backend: bullmq({ connection: url, queue, lockDuration: 400, stalledInterval: 600_000 }) })
  await app.ready()
  const handles = [1, 2].map(() => app.backgroundTasks.add(waits))
  const ids = handles.map(({ id }) => id)
  await app.backgroundTasks.flush()
  for (const id of ids) await until('it runs', async () => (await app.backgroundTasks.find(id))?.state === 'running')
  await client.del(...ids.map(id => `bull:${queue}:${id}:lock`))
  const lost = () => log.filter(({ msg }) => msg.includes('gave no sign of life'))
  await until('both are logged', () => lost().length >= 2)
  // Their ends are refused, which says it once more.
  gate.resolve()
  await until('the worker has left them', async () => (await Promise.all(ids.map(id => client.lpos(`bull:${queue}:active`, id)))).every(place => place !== null))
  await app.close()
  t.same(lost().map(({ level, task }) => [level, task?.id]).sort(), ids.map(id => [40, id]).sort())
  t.same(log.filter(({ msg }) => msg.endsWith('is in trouble')), [])
})

test('Redis: a task that is given back after its lock was lost is logged as lost', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const queue = `worker-${randomUUID()}`
  const waits = defineTask('waits', async (_payload: undefined, { signal }) => {
    await once(signal, 'abort')
    throw signal.reason
  })
  const { app, log } = await createApp(t, { tasks: [waits], backend: bullmq({ connection: url, queue, stalledInterval: 600_000 }), closeTimeout: 100 })
  await app.ready()
  const { id } = app.backgroundTasks.add(waits)
  await until('it runs', async () => (await app.backgroundTasks.find(id))?.state === 'running')
  await client.del(`bull:${queue}:${id}:lock`)
  await app.close()
  t.match(log.filter(({ msg }) => msg.includes('gave no sign of life')), [{ level: 40, task: { id } }])
  t.same(log.filter(({ msg }) => msg.endsWith('is in trouble')), [])
})

test('Redis: a job that cannot be read, and whose mending fails, is a trouble of the server', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const queue = `worker-${randomUUID()}`
  const task = defineTask('task', async () => {})
  const { repair } = RedisServer.prototype
  t.teardown(() => { RedisServer.prototype.repair = repair })
  RedisServer.prototype.repair = async () => { throw new Error('the connection has gone') }
  const web = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue }), worker: false })
  await web.app.ready()
  const { id } = web.app.backgroundTasks.add(task)
  await web.app.backgroundTasks.flush()
  await client.hset(`bull:${queue}:${id}`, 'data', '{')
  const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue }) })
  await app.ready()
  await until('it is logged', () => log.some(({ msg, err }) => msg === 'BullMQ on Redis is in trouble' && err?.message === 'the connection has gone'))
})

test('Postgres: an error that reads like a job which cannot be read is a trouble of the server', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const task = defineTask('task', async () => {})
  const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue: `worker-${randomUUID()}` }) })
  await app.ready()
  const { query } = TaskPool.prototype
  t.teardown(() => { TaskPool.prototype.query = query })
  TaskPool.prototype.query = async function (statement, values) {
    if (String(statement).includes('move_to_active')) {
      // As a server's answer does, it takes a turn: BullMQ asks again at once, which else would hold the thread for good.
      await turns(1)
      throw new TypeError('a driver that fails')
    }
    return query.call(this, statement, values) as never
  }
  const handle = app.backgroundTasks.add(task)
  await app.backgroundTasks.flush()
  await until('it is logged', () => log.some(({ msg, err }) => msg === 'BullMQ on Postgres is in trouble' && err?.message === 'a driver that fails'))
  TaskPool.prototype.query = query
  t.equal(await handle.settled(), 'completed')
})
