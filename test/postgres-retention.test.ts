import { randomUUID } from 'node:crypto'
import { Client, Pool } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { bullmq, type BullmqOptions } from '../lib/backends/bullmq'
import { until } from './support/conformance'
import { createApp } from './support/server'
import { noPostgres, postgres } from './support/services'

// Settled tasks in Postgres go when they are old or too many, and workers do not come into each other's way over it.

/** The plugin looks for such tasks every 15 seconds. The test does not wait so long. */
const { setTimeout: realSetTimeout } = globalThis
globalThis.setTimeout = ((fn: () => void, ms: number, ...args: []) => realSetTimeout(fn, ms === 15_000 ? 20 : ms, ...args)) as typeof setTimeout

async function kept (t: Test, url: string, queue: string): Promise<() => Promise<Record<string, number>>> {
  const client = new Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  return async () => {
    const { rows } = await client.query('SELECT state, count(*)::int AS count FROM bullmq.job WHERE queue = $1 GROUP BY state', [queue])
    return Object.fromEntries(rows.map(({ state, count }) => [state, count]))
  }
}

test('as many are kept as the option says, for as long as it says', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  const task = defineTask('task', async (payload: string) => { if (payload === 'fail') throw new Error('failed') })
  const options: BullmqOptions = { connection: url, queue, retain: { completed: { age: 1_000, count: 3 }, failed: { age: 0, count: 1_000 } } }
  const { app } = await createApp(t, { tasks: [task], backend: bullmq(options) })
  await app.ready()
  for (let n = 0; n < 2_100; n++) app.backgroundTasks.add(task, n % 20 === 0 ? 'fail' : 'complete')
  await app.backgroundTasks.flush()
  const count = await kept(t, url, queue)
  t.ok(await until('they are gone', async () => {
    const { waiting = 0, active = 0, completed = 0, failed = 0 } = await count()
    return waiting + active + failed === 0 && completed <= 3
  }))
})

test('workers that end tasks at the same time: each task runs once, and no end is lost', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  const runs = new Map<string, number>()
  const task = defineTask('task', async (_payload: undefined, ctx) => { runs.set(ctx.id, (runs.get(ctx.id) ?? 0) + 1) })
  const options: BullmqOptions = { connection: url, queue, lockDuration: 1_000, stalledInterval: 500, retain: { completed: { age: 1_000, count: 50 } } }
  const workers = await Promise.all([1, 2, 3].map(() => createApp(t, { tasks: [task], backend: bullmq(options), worker: { concurrency: 10 } })))
  await Promise.all(workers.map(({ app }) => app.ready()))
  const { app } = workers[0]!
  for (let n = 0; n < 1_000; n++) app.backgroundTasks.add(task)
  await app.backgroundTasks.flush()
  const count = await kept(t, url, queue)
  t.ok(await until('all have ended', async () => {
    const { waiting = 0, active = 0 } = await count()
    return waiting + active === 0
  }))
  t.equal(runs.size, 1_000)
  t.same([...runs.values()].filter(times => times !== 1), [])
  for (const { log } of workers) t.same(log.filter(({ level }) => level >= 40).map(({ msg, err }) => [msg, err?.message]), [], 'nobody is in trouble')
})

test('a look that fails is logged, and the next one comes', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  const task = defineTask('task', async () => {})
  let failing = true
  const pool = new Pool({ connectionString: url, options: '-c search_path=bullmq' })
  t.teardown(() => pool.end())
  const query = pool.query.bind(pool)
  Object.assign(pool, {
    query: (text: string | { text: string }, ...args: []) => {
      if (failing && /get_range/.test(typeof text === 'string' ? text : text.text)) return Promise.reject(new Error('no looks now'))
      return (query as (...args: unknown[]) => unknown)(text, ...args)
    }
  })
  const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: pool, queue, retain: { completed: { age: 1_000, count: 0 } } }) })
  await app.ready()
  app.backgroundTasks.add(task)
  await until('logged', () => log.some(({ msg, err }) => msg === 'BullMQ on Postgres is in trouble' && err?.message === 'no looks now'))
  failing = false
  const count = await kept(t, url, queue)
  t.ok(await until('it is gone', async () => Object.keys(await count()).length === 0))
})
