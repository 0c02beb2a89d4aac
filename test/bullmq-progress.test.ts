import Redis from 'ioredis'
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { createApp } from './support/server'
import { noPostgres, noRedis, postgres, redis } from './support/services'

/** @param countWrites how many values of progress the server was given */
async function reports (t: Test, url: string, countWrites: (queue: string) => Promise<number>): Promise<void> {
  const queue = `progress-${randomUUID()}`
  const circle: { self?: unknown } = {}
  circle.self = circle
  const task = defineTask('task', async (_payload: undefined, ctx) => {
    for (let part = 0; part < 10_000; part++) ctx.progress(part)
    ctx.progress(circle)
    ctx.progress(undefined)
  })
  const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue }) })
  await app.ready()
  const handle = app.backgroundTasks.add(task)
  const { id } = handle
  t.equal(await handle.settled(), 'completed')
  t.equal(await countWrites(queue), 2, 'the first value, and the last one')
  t.equal((await app.backgroundTasks.find(id))!.progress ?? undefined, undefined)
  t.match(log.filter(({ msg }) => msg.endsWith('the progress of a background task could not be stored')), [{ level: 40, task: { id }, err: { message: /circular/ } }])
}

test('Redis: while one value of progress is written, of all that follow the last one counts', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  await reports(t, url, async queue => {
    const events = await client.xrange(`bull:${queue}:events`, '-', '+')
    return events.filter(([, fields]) => fields.includes('progress')).length
  })
})

test('Postgres: while one value of progress is written, of all that follow the last one counts', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const client = new Client({ connectionString: url })
  t.teardown(() => client.end())
  await client.connect()
  await reports(t, url, async queue => {
    const { rows } = await client.query("SELECT count(*)::int AS writes FROM bullmq.event WHERE queue = $1 AND event = 'progress'", [queue])
    return (rows[0] as { writes: number }).writes
  })
})
