// First: the plugin takes the timers when it is loaded.
import { looks } from '../support/looks'
import { randomUUID } from 'node:crypto'
import { Client, Pool } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq, type BullmqOptions } from '../../lib/backends/bullmq'
import { until } from '../support/until'
import { createApp, signal } from '../support/server'
import { noPostgres, postgres } from '../support/services'

// Settled tasks in Postgres go when they are old or too many, and workers do not come into each other's way over it.

function look (): void {
  for (const [timer, fn] of [...looks]) {
    clearTimeout(timer)
    fn()
  }
}

/** Has so many workers look, and waits until they have. */
async function wholeLook (workers = 1): Promise<void> {
  await until('nobody looks', () => looks.size === workers)
  look()
  await until('they have looked', () => looks.size === workers)
}

async function client (t: Test, url: string): Promise<Client> {
  const client = new Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  return client
}

async function kept (client: Client, queue: string): Promise<Record<string, number>> {
  const { rows } = await client.query('SELECT state, count(*)::int AS count FROM bullmq.job WHERE queue = $1 GROUP BY state', [queue])
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]))
}

const work = defineTask('work', async (payload?: string) => { if (payload === 'fail') throw new Error('failed') })

test('as many are kept as the option says, for as long as it says', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const other = await client(t, url)
  for (const [retain, expected] of [
    [{ completed: { age: 1_000, count: 3 }, failed: { age: 0.0005, count: 1_000 } }, { completed: 3 }],
    [{ completed: { age: 0, count: 1_000 }, failed: { age: 86_400 / 7, count: 0 } }, {}],
    [{}, { completed: 1_995, failed: 105 }]
  ] as const) {
    const queue = `retention-${randomUUID()}`
    const { app } = await createApp(t, { tasks: [work], backend: bullmq({ connection: url, queue, retain }), worker: { concurrency: 50 } })
    await app.ready()
    for (let n = 0; n < 2_100; n++) app.backgroundTasks.add(work, n % 20 === 0 ? 'fail' : 'complete')
    await app.backgroundTasks.flush()
    await until('all have ended', async () => {
      const { waiting = 0, active = 0 } = await kept(other, queue)
      return waiting + active === 0
    })
    await wholeLook()
    t.same(await kept(other, queue), expected, JSON.stringify(retain))
    await wholeLook()
    t.same(await kept(other, queue), expected, 'and they stay')
    await app.close()
    t.equal(looks.size, 0, 'nobody looks after the close')
  }
})

test('workers that end tasks at the same time: each task runs once, and no end is lost', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  const runs = new Map<string, number>()
  const task = defineTask('task', async (_payload: undefined, ctx) => { runs.set(ctx.id, (runs.get(ctx.id) ?? 0) + 1) })
  const options: BullmqOptions = { connection: url, queue, stalledInterval: 500, retain: { completed: { age: 1_000, count: 50 } } }
  const workers = await Promise.all([1, 2, 3].map(() => createApp(t, { tasks: [task], backend: bullmq(options), worker: { concurrency: 10 } })))
  await Promise.all(workers.map(({ app }) => app.ready()))
  const { app } = workers[0]!
  for (let n = 0; n < 1_000; n++) app.backgroundTasks.add(task)
  await app.backgroundTasks.flush()
  const other = await client(t, url)
  await until('all have ended', async () => {
    look()
    const { waiting = 0, active = 0 } = await kept(other, queue)
    return waiting + active === 0
  })
  await wholeLook(3)
  t.same(await kept(other, queue), { completed: 50 })
  await Promise.all(workers.map(({ app }) => app.close()))
  t.equal(runs.size, 1_000)
  t.same([...runs.values()].filter(times => times !== 1), [])
  for (const { log } of workers) t.same(log.filter(({ level }) => level >= 40).map(({ msg, err }) => [msg, err?.message]), [], 'nobody is in trouble')
})

test('a failed task that somebody has run again meanwhile stays', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  const { app } = await createApp(t, { tasks: [work], backend: bullmq({ connection: url, queue, retain: { failed: { age: 0, count: 0 } } }) })
  await app.ready()
  const { id } = app.backgroundTasks.add(work, 'fail')
  await until('it has failed', async () => (await app.backgroundTasks.find(id))?.state === 'failed')
  const other = await client(t, url)
  await other.query('BEGIN')
  await other.query("UPDATE bullmq.job SET state = 'delayed', process_at_ms = $1 WHERE queue = $2", [Date.now() + 1_000_000, queue])
  await wholeLook()
  await other.query('COMMIT')
  await wholeLook()
  t.same(await kept(other, queue), { delayed: 1 })
  await app.close()
})

/** A ready pool; what the statement that removes tasks rejects with, if the test has something for it. */
function refusingPool (t: Test, url: string, refuse: () => Promise<Error> | null): Pool {
  const pool = new Pool({ connectionString: url, options: '-c search_path=bullmq' })
  t.teardown(() => pool.end())
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown
  Object.assign(pool, {
    query: async (text: string, ...args: unknown[]) => {
      const refusal = /DELETE FROM job/.test(text) ? refuse() : null
      if (refusal === null) return query(text, ...args)
      throw await refusal
    }
  })
  return pool
}

const refused = async (code: string) => Object.assign(new Error('refused'), { code })

test('a look that fails is logged, and the next one comes', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  let failing = true
  const pool = refusingPool(t, url, () => failing ? refused('57P01') : null)
  const { app, log } = await createApp(t, { tasks: [work], backend: bullmq({ connection: pool, queue, retain: { completed: { age: 1_000, count: 0 } } }) })
  await app.ready()
  await app.backgroundTasks.add(work).settled()
  await wholeLook()
  t.match(log.find(({ msg }) => msg === 'BullMQ on Postgres is in trouble'), { err: { message: 'refused' } })
  failing = false
  await wholeLook()
  t.same(await kept(await client(t, url), queue), {})
  await app.close()
})

test('where BullMQ has other names for its table, it removes old tasks itself', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `retention-${randomUUID()}`
  const pool = refusingPool(t, url, () => refused('42P01'))
  const { app, log } = await createApp(t, { tasks: [work], backend: bullmq({ connection: pool, queue, retain: { completed: { age: 0, count: 10 } } }) })
  await app.ready()
  await app.backgroundTasks.add(work).settled()
  await wholeLook()
  t.same(await kept(await client(t, url), queue), {})
  t.notOk(log.some(({ level }) => level >= 40))
  await app.close()
})

test('a close during a look ends it, and does not tell of it', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const looking = signal()
  const go = signal()
  const pool = refusingPool(t, url, () => {
    looking.resolve()
    return go.promise.then(() => new Error('the connection has gone'))
  })
  const backend = bullmq({ connection: pool, queue: `retention-${randomUUID()}` })
  const close = backend.close.bind(backend)
  backend.close = ms => {
    const closing = close(ms)
    go.resolve()
    return closing
  }
  const { app, log } = await createApp(t, { tasks: [work], backend })
  await app.ready()
  look()
  await looking.promise
  await app.close()
  t.equal(looks.size, 0)
  t.same(log.filter(({ level }) => level >= 40).map(({ msg, err }) => [msg, err?.message]), [])
})
