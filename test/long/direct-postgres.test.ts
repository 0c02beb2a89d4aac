import { randomUUID } from 'node:crypto'
import type { JobJson, Queue } from 'bullmq'
import { Client, Pool } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { DirectPostgresWriter } from '../../lib/backends/bullmq/direct/postgres'
import { PlainPostgresWriter } from '../../lib/backends/bullmq/postgres/plain-writer'
import type { TaskPool } from '../../lib/backends/bullmq/postgres/pool'
import { openPostgres } from '../support/bullmq'
import { until } from '../support/until'
import { createApp } from '../support/server'
import { noPostgres, postgres } from '../support/services'
import { noQueueLock } from '../support/versions'

// Tasks are stored by a statement of our own. Postgres must then hold what BullMQ's functions would have made of them.

interface Opened { queue: Queue, pool: TaskPool, client: Client }

async function open (t: Test, url: string, schema = 'bullmq'): Promise<Opened> {
  const opened = await openPostgres(t, url, schema)
  const client = new Client({ connectionString: url, options: `-c search_path=${schema}` })
  await client.connect()
  t.teardown(() => client.end())
  return { ...opened, client }
}

/** A schema of the test's own, which it may change. */
async function openOwn (t: Test, url: string): Promise<Opened & { schema: string }> {
  const schema = `writer_${randomUUID().replaceAll('-', '_')}`
  const opened = await open(t, url, schema)
  t.teardown(() => opened.client.query(`DROP SCHEMA ${schema} CASCADE`))
  return { ...opened, schema }
}

function job (id: string, more: Partial<JobJson> = {}): JobJson {
  return { id, name: 'task', data: '{"payload":"ü \\\\ \\" [1]"}', opts: { attempts: 1 }, timestamp: 1_234_567_890_123, ...more } as JobJson
}

function keyed (id: string, dedupe: string, more: Partial<JobJson> = {}): JobJson {
  return job(id, { opts: { attempts: 1, deduplication: { id: dedupe } }, deduplicationId: dedupe, ...more })
}

const fail = (error: Error): void => { throw error }

async function openWriter ({ queue, pool }: Opened, failed = fail): Promise<DirectPostgresWriter> {
  const writer = await DirectPostgresWriter.open(queue, pool, new PlainPostgresWriter(queue, pool, failed), failed)
  if (writer === null) throw new Error('the tables are not known')
  return writer
}

/** Whatever a queue's tables hold, but for the numbers and the time that Postgres gives its rows. */
async function contents (client: Client, { name }: Queue) {
  const { rows: jobs } = await client.query('SELECT * FROM job WHERE queue = $1 ORDER BY seq', [name])
  const { rows: events } = await client.query('SELECT event, data FROM event WHERE queue = $1 ORDER BY id', [name])
  return { jobs: jobs.map(({ queue, seq, ...row }) => row), events }
}

async function notifications (client: Client, { name }: Queue): Promise<string[]> {
  const heard: string[] = []
  client.on('notification', ({ channel, payload }) => { if (payload === name) heard.push(channel) })
  await client.query('LISTEN bullmq_jobs')
  await client.query('LISTEN bullmq_events')
  return heard
}

/** How many events of a queue are kept. BullMQ writes its default once the queue is ready, and would overwrite what came before. */
async function keep (client: Client, queue: string, events: string): Promise<void> {
  await until('BullMQ has written its own', async () => {
    const { rowCount } = await client.query("UPDATE meta SET value = $2 WHERE queue = $1 AND field = 'opts.maxLenEvents'", [queue, events])
    return rowCount === 1
  })
}

const jobs = [
  job('a'),
  job('b', { name: 'an "other" one', data: '{}' }),
  job('c', { opts: { attempts: 3, backoff: { type: 'exponential', delay: 1_000, jitter: 0.5 } } }),
  job('d', { opts: { attempts: 1, delay: 5_000 } }),
  job('a', { data: '{"payload":"again"}' })
]

test('jobs stand as BullMQ puts them, and its workers are told', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const [theirs, ours] = [await open(t, url), await open(t, url)]
  const { queue: { name: queueName } } = theirs
  await theirs.queue.getBackend().addFlow(jobs.map(job => ({ queueName, prefix: 'bullmq', jobData: job, jobId: job.id, parentKeyOpts: {} })))
  const heard = await notifications(ours.client, ours.queue)
  const writer = await openWriter(ours)
  t.same(await writer.add([jobs.slice(0, 2), jobs.slice(2)]), [['a', 'b'], ['c', 'd', 'a']])
  const found = await contents(ours.client, ours.queue)
  t.same(found, await contents(theirs.client, theirs.queue))
  t.equal(found.jobs.length, 4)
  t.same(heard.sort(), ['bullmq_events', 'bullmq_jobs'])
  t.same(await writer.add([[jobs[0]!]]), [['a']])
  t.same(await contents(ours.client, ours.queue), found, 'and once')
  t.equal(heard.length, 2, 'and nobody is told of nothing')
})

test('what has the queue for itself is waited for, as BullMQ does', { skip: noPostgres || noQueueLock }, async t => {
  const { url } = await postgres(t)
  const opened = await openOwn(t, url)
  const { queue, client, schema } = opened
  const { client: other } = await open(t, url, schema)
  const writer = await openWriter(opened)
  // The first step of `obliterate`.
  await client.query('BEGIN')
  await client.query("SELECT pg_advisory_xact_lock(hashtext('bullmq:finalization'), hashtext($1))", [queue.name])
  const stored = [queue.getBackend().addJob(job('theirs'), 'theirs'), writer.add([[job('ours')]])]
  const waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = (hashtext($1)::bigint & 4294967295)::oid"
  await until('both wait', async () => (await other.query(waiting, [queue.name])).rowCount === 2)
  t.equal((await contents(other, queue)).jobs.length, 0)
  await client.query('COMMIT')
  t.same(await Promise.all(stored), ['theirs', [['ours']]])
  t.equal((await contents(other, queue)).jobs.length, 2)
})

test('the tables of the BullMQ that is installed are known; it is this statement that stores', { skip: noPostgres }, async t => {
  const opened = await openOwn(t, (await postgres(t)).url)
  await opened.client.query('ALTER FUNCTION add_flow RENAME TO gone')
  await opened.client.query('ALTER FUNCTION add_job RENAME TO gone')
  const writer = await openWriter(opened)
  t.same(await writer.add([[job('a'), job('b')], [job('c')]]), [['a', 'b'], ['c']])
})

test('those with a dedupe id are left to BullMQ, and do not hold up the others', { skip: noPostgres }, async t => {
  const opened = await open(t, (await postgres(t)).url)
  const { queue, client } = opened
  const writer = await openWriter(opened)
  t.same(await writer.add([[job('a')], [keyed('b', 'x'), job('c')], [job('d')], [keyed('e', 'x')]]), [['a'], ['b', 'c'], ['d'], ['b']])
  t.same((await contents(client, queue)).jobs.map(({ id }) => id).sort(), ['a', 'b', 'c', 'd'])
})

test('a request that Postgres refuses is refused alone', { skip: noPostgres }, async t => {
  const opened = await open(t, (await postgres(t)).url)
  const { queue, client } = opened
  const writer = await openWriter(opened)
  const bad = { data: '{"payload":"\\u0000"}' }
  const batches = [[job('a')], [job('b'), job('bad', bad)], [job('c')], [keyed('d', 'x')], [keyed('e', 'y'), keyed('bad', 'z', bad)], [keyed('f', 'y')]]
  t.match(await writer.add(batches), [['a'], { code: '22P05' }, ['c'], ['d'], { code: '22P05' }, ['f']])
  t.same((await contents(client, queue)).jobs.map(({ id }) => id).sort(), ['a', 'c', 'd', 'f'])
})

test('tables of a BullMQ that is not known are left to its functions', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  for (const [change, what] of [
    ['INSERT INTO migration (version, name, min_client_version) VALUES (1000, \'unknown\', 6)', 'of another version'],
    ['ALTER TABLE migration RENAME TO migrations', 'with other names']
  ] as const) {
    const opened = await openOwn(t, url)
    const { queue, pool, client } = opened
    const writer = await openWriter(opened)
    t.same(await writer.add([[job('a')]]), [['a']])
    // As another application that is newer would change them meanwhile.
    await client.query(change)
    await client.query('CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.failed_reason := current_query(); RETURN NEW; END $$')
    await client.query('CREATE TRIGGER mark BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION mark()')
    const bad = job('bad', { data: '{"payload":"\\u0000"}' })
    t.match(await writer.add([[job('b'), job('c')], [bad], [job('d')]]), [['b', 'c'], { code: '22P05' }, ['d']])
    t.same(await writer.add([[job('e')]]), [['e']])
    const { rows } = await client.query('SELECT id, failed_reason FROM job ORDER BY seq')
    t.match(rows, [{ id: 'a', failed_reason: null }, ...['b', 'c'].map(id => ({ id, failed_reason: /add_flow|add_job/ })), { id: 'd', failed_reason: /add_flow|add_job/ }, { id: 'e', failed_reason: /add_job/ }], what)
    t.equal(await DirectPostgresWriter.open(queue, pool, new PlainPostgresWriter(queue, pool, fail), fail), null, 'and another start would see it')
  }
})

test('a connection that does not keep what is prepared, or has kept something else, costs no task', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const { client, schema } = await openOwn(t, url)
  const sent: string[] = []
  const refused: unknown[] = []
  const start = async () => {
    const pool = new Pool({ connectionString: url, options: `-c search_path=${schema}`, max: 1 })
    t.teardown(() => pool.end())
    const query = pool.query.bind(pool) as (...args: unknown[]) => Promise<unknown>
    pool.query = ((...args: unknown[]) => {
      const { name } = args[0] as { name?: string }
      if (name !== undefined) sent.push(name)
      return query(...args).catch(error => {
        refused.push(error.code)
        throw error
      })
    }) as never
    const task = defineTask('task', async () => {})
    const { app } = await createApp(t, { tasks: [task], worker: false, backend: bullmq({ connection: pool, prefix: schema }) })
    await app.ready()
    const add = async () => {
      app.backgroundTasks.add(task)
      await app.backgroundTasks.flush()
      return (await client.query('SELECT FROM job')).rowCount
    }
    return { pool, add }
  }

  // A proxy that hands each transaction another connection.
  const first = await start()
  t.equal(await first.add(), 1)
  await first.pool.query('DEALLOCATE ALL')
  t.equal(await first.add(), 2)
  t.equal(await first.add(), 3)
  t.same(refused, ['26000'])
  t.equal(sent.length, 2, 'it is not tried for ever')

  const second = await start()
  await second.pool.query(`PREPARE "${sent[0]}" AS SELECT 1`)
  t.equal(await second.add(), 4)
  t.equal(await second.add(), 5)
  t.same(refused, ['26000', '42P05'])
  t.equal(sent.length, 3)
})

test('events that need not be kept any longer are removed, as BullMQ does', { skip: noPostgres }, async t => {
  const opened = await openOwn(t, (await postgres(t)).url)
  const { queue, pool, client } = opened
  const writer = await openWriter(opened, error => { errors.push(error) })
  // The writer does not wait for this statement.
  const query = pool.query.bind(pool)
  const queries: Array<Promise<unknown>> = []
  pool.query = (...args) => {
    const result = query(...args)
    queries.push(result)
    return result as never
  }
  const errors: Error[] = []
  const left = async (added: number) => {
    await writer.add([Array.from({ length: added }, () => job(randomUUID()))])
    await Promise.allSettled(queries)
    return (await client.query('SELECT count(*)::int AS count FROM event')).rows[0].count
  }
  await keep(client, queue.name, '100')
  t.equal(await left(999), 1_998, 'not for each')
  t.equal(await left(1), 100)
  t.equal(await left(999), 2_098)

  for (const none of ['0', '-5']) {
    await keep(client, queue.name, none)
    t.equal(await left(1_000), none === '0' ? 4_098 : 6_098, 'none where there is no limit')
  }

  await keep(client, queue.name, 'many')
  t.equal(await left(1_000), 8_098)
  t.match(errors, [{ message: /invalid input syntax for type integer/ }])

  await client.query('DELETE FROM meta WHERE queue = $1', [queue.name])
  t.equal(await left(2_000), 10_000)
})

test('that they could not be removed is told', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const { client, schema } = await openOwn(t, url)
  const task = defineTask('task', async () => {})
  const { app, log } = await createApp(t, { tasks: [task], worker: false, backend: bullmq({ connection: url, prefix: schema, queue: 'events' }) })
  await app.ready()
  await keep(client, 'events', 'many')
  for (let count = 0; count < 1_000; count++) app.backgroundTasks.add(task)
  await app.backgroundTasks.flush()
  await until('it is told', () => log.some(({ msg }) => msg === 'BullMQ on Postgres is in trouble'))
  t.equal((await client.query('SELECT FROM job')).rowCount, 1_000)
})
