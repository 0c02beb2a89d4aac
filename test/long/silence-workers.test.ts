import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { until } from '../support/until'
import { Proxy } from '../support/proxy'
import { createApp } from '../support/server'
import { noPostgres, noRedis, postgres, redis } from '../support/services'

// A worker whose network forgets its connections: they stay open, and nothing comes through them any more.

const task = defineTask('task', async () => {})

async function start (t: Test, url: string) {
  const { port, pathname, protocol } = new URL(url)
  const proxy = await Proxy.start(t, Number(port))
  const queue = `silence-${randomUUID()}`
  const through = new URL(url)
  through.host = `127.0.0.1:${proxy.port}`
  const { app: web } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue }), worker: false })
  const { app: worker, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: through.href, queue }), storeTimeout: 3_000 })
  await Promise.all([web.ready(), worker.ready()])
  t.equal(await web.backgroundTasks.add(task).settled(), 'completed', `${protocol}${pathname}`)
  return { proxy, web, log, queue }
}

async function runsAgain (t: Test, url: string): Promise<void> {
  const { proxy, web, log } = await start(t, url)
  proxy.silence()
  t.equal(await web.backgroundTasks.add(task).settled(), 'completed')
  t.ok(log.some(({ msg, level }) => level === 40 && msg.endsWith('is in trouble')), 'it is logged')
}

test('Redis: a worker runs tasks again once its connections have said nothing for too long', { skip: noRedis }, async t => {
  await runsAgain(t, (await redis(t)).url)
})

test('Postgres: a worker runs tasks again once its connections have said nothing for too long', { skip: noPostgres }, async t => {
  await runsAgain(t, (await postgres(t)).url)
})

test('Postgres: a connection for notifications that says nothing is made anew', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const { proxy, log, queue } = await start(t, url)
  const client = new Client({ connectionString: url })
  t.teardown(() => client.end())
  await client.connect()
  const ports = async () => {
    // A worker's connection for notifications has the name of its queue.
    const { rows } = await client.query('SELECT client_port FROM pg_stat_activity WHERE application_name = $1', [queue])
    return rows.map(row => row.client_port as number)
  }
  const [port] = await ports()
  proxy.silence(port)
  await until('another one', async () => (await ports()).some(other => other !== port))
  t.ok(log.some(({ msg, level }) => level === 40 && msg.endsWith('is in trouble')), 'it is logged')
})
