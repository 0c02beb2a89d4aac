import Redis from 'ioredis'
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { until } from '../support/until'
import { Proxy } from '../support/proxy'
import { createApp } from '../support/server'
import { noOwnPostgres, noOwnRedis, ownPostgres, ownRedis } from '../support/services'

// A primary that becomes a replica while connections to it stay open, and a name that leads to the new one: here a proxy.

const task = defineTask('task', async (n: number) => n)

/** A web process and a worker, on one address. */
async function start (t: Test, connection: string) {
  const queue = `failover-${randomUUID()}`
  const { app: web } = await createApp(t, { tasks: [task], backend: bullmq({ connection, queue }), worker: false })
  const { app: worker } = await createApp(t, { tasks: [task], backend: bullmq({ connection, queue }) })
  web.get('/', async request => request.backgroundTasks.add(task, 1).id)
  await Promise.all([web.ready(), worker.ready()])
  const status = async () => (await web.inject('/')).statusCode
  t.equal(await status(), 200)
  return { web, status }
}

test('Redis: another server has become the primary', { skip: noOwnRedis }, async t => {
  const [one, two] = [await ownRedis(t), await ownRedis(t)]
  const proxy = await Proxy.start(t, one.port)
  const [first, second] = [new Redis(one.url), new Redis(two.url)]
  t.teardown(() => {
    first.disconnect()
    second.disconnect()
  })
  await second.replicaof('127.0.0.1', one.port)
  await until('a replica', async () => (await second.info('replication')).includes('master_link_status:up'))
  const { web, status } = await start(t, `redis://127.0.0.1:${proxy.port}`)
  await first.wait(1, 0)
  await second.replicaof('NO', 'ONE')
  await first.replicaof('127.0.0.1', two.port)
  proxy.target = two.port
  await until('it is stored again', async () => await status() === 200)
  t.equal(await web.backgroundTasks.add(task, 2).settled(), 'completed', 'the worker has found it, too')
})

test('Postgres: another server has become the primary', { skip: noOwnPostgres }, async t => {
  const one = await ownPostgres(t)
  const proxy = await Proxy.start(t, one.port)
  const { web, status } = await start(t, `postgres://postgres@127.0.0.1:${proxy.port}/postgres`)
  const two = await ownPostgres(t, one)
  const client = new Client({ connectionString: one.url })
  t.teardown(() => client.end())
  await client.connect()
  await client.query('ALTER SYSTEM SET default_transaction_read_only = on')
  await client.query('SELECT pg_reload_conf()')
  proxy.target = two.port
  await until('it is stored again', async () => await status() === 200)
  t.equal(await web.backgroundTasks.add(task, 2).settled(), 'completed', 'the worker has found it, too')
  const { rows } = await client.query("SELECT 1 FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'")
  t.same(rows, [], 'nothing listens to the old one')
})
