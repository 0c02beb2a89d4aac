import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { CompiledQuery, Kysely, PostgresDialect } from 'kysely'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Client, Pool } from 'pg'
import tap, { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TransactionClient } from '../index'
import { bullmq, type BullmqOptions } from '../lib/backends/bullmq'
import { createApp } from './support/server'
import { noPostgres, postgres, type Service } from './support/services'
import { ends, until } from './support/until'

// A task in the user's own transaction on PostgreSQL.

/** One server for all tests. */
let server: Promise<Service> | null = null

/** An application with a worker, a connection of the user's, and a table of the user's. */
async function start (t: Test, more: Partial<BullmqOptions> = {}, plugin: BackgroundTasksOptions = {}) {
  server ??= postgres(tap)
  const { url } = await server
  const ran: unknown[] = []
  const task = defineTask('receipt', async (payload: unknown) => {
    ran.push(payload)
    return 'sent'
  })
  const queue = `transaction-${randomUUID()}`
  const { app } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue, ...more }), ...plugin })
  const pool = new Pool({ connectionString: url })
  t.teardown(() => pool.end())
  pool.on('error', () => {})
  const client = await pool.connect()
  t.teardown(() => client.release())
  const orders = `orders_${randomUUID().replaceAll('-', '')}`
  await client.query(`CREATE TABLE ${orders} (n integer)`)
  const order = (n: number) => client.query(`INSERT INTO ${orders} VALUES ($1)`, [n])
  const ordered = async () => (await pool.query(`SELECT n FROM ${orders} ORDER BY n`)).rows.map(({ n }) => n)
  return { app, url, task, ran, queue, pool, client, orders, order, ordered }
}

for (const writer of ['direct', 'plain'] as const) {
  test(`a task runs if the transaction commits, and never existed if it does not (${writer})`, { skip: noPostgres }, async t => {
    const { app, client, order, ordered, task, ran } = await start(t, { writer })
    app.post<{ Params: { n: string, end: string } }>('/:n/:end', async request => {
      await client.query('BEGIN')
      await order(Number(request.params.n))
      const { id, name, state } = await request.backgroundTasks.addInTransaction(client, task, { n: Number(request.params.n) })
      const before = await app.backgroundTasks.find(id)
      await client.query(request.params.end)
      return { id, name, state, before }
    })
    const send = async (path: string) => (await app.inject({ method: 'POST', url: path })).json()
    const lost = await send('/1/ROLLBACK')
    t.match(lost, { name: 'receipt', state: 'stored', before: null })
    t.equal(await app.backgroundTasks.find(lost.id), null)
    const kept = await send('/2/COMMIT')
    t.equal(kept.before, null)
    await until('it has run', async () => (await app.backgroundTasks.find(kept.id))?.state === 'completed')
    t.equal(await app.backgroundTasks.find(lost.id), null)
    t.same(ran, [{ n: 2 }])
    t.same(await ordered(), [2])
    t.match(app.backgroundTasks.stats(), { stored: 2, pending: 0 })
  })
}

test('workers are told at the commit, and not before', { skip: noPostgres }, async t => {
  const { app, client, url, task, queue } = await start(t, {}, { worker: false })
  await app.ready()
  const listener = new Client({ connectionString: url })
  await listener.connect()
  t.teardown(() => listener.end())
  await listener.query('LISTEN bullmq_jobs')
  const told: string[] = []
  listener.on('notification', ({ payload }) => { if (payload === queue) told.push(payload) })
  await client.query('BEGIN')
  await app.backgroundTasks.addInTransaction(client, task, 1)
  await client.query('ROLLBACK')
  await client.query('BEGIN')
  await app.backgroundTasks.addInTransaction(client, task, 2)
  await listener.query('SELECT 1')
  t.same(told, [])
  const notified = once(listener, 'notification')
  await client.query('COMMIT')
  await ends('the notification', notified)
  t.same(told, [queue])
})

test('settled() follows the task after the commit; after a rollback it resolves when the application has closed', { skip: noPostgres }, async t => {
  const { app, client, task } = await start(t)
  await app.ready()
  await client.query('BEGIN')
  const kept = await app.backgroundTasks.addInTransaction(client, task, 1)
  const settled = kept.settled()
  t.equal(await kept.cancel(), false, 'there is nothing yet that could be cancelled')
  await client.query('COMMIT')
  t.equal(await settled, 'completed')
  await client.query('BEGIN')
  const lost = await app.backgroundTasks.addInTransaction(client, task, 2)
  await client.query('ROLLBACK')
  const end = lost.settled()
  await app.close()
  t.equal(await end, 'stored')
})

test('the session is as it was: its search path, what is prepared, its transaction', { skip: noPostgres }, async t => {
  const { app, client, task, ran } = await start(t)
  await app.ready()
  await client.query("SET search_path = 'pg_catalog', 'public'")
  await client.query({ name: 'mine', text: 'SELECT 1' })
  const session = async () => (await client.query(`SELECT current_setting('search_path') AS path, current_setting('transaction_isolation') AS isolation,
    (SELECT count(*)::int FROM pg_prepared_statements) AS prepared`)).rows
  for (const level of ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE']) {
    await client.query(`BEGIN ISOLATION LEVEL ${level}`)
    const before = await session()
    await app.backgroundTasks.addInTransaction(client, task, level)
    t.same(await session(), before)
    t.equal(before[0].isolation, level.toLowerCase())
    await client.query('COMMIT')
  }
  await until('all have run', () => ran.length === 3)
})

test('a savepoint that is rolled back takes its task along; an error leaves the transaction as Postgres has it', { skip: noPostgres }, async t => {
  const { app, client, order, ordered, task, ran } = await start(t)
  await app.ready()
  await client.query('BEGIN')
  await app.backgroundTasks.addInTransaction(client, task, 'first')
  await order(1)
  await client.query('SAVEPOINT here')
  await app.backgroundTasks.addInTransaction(client, task, 'second')
  await t.rejects(client.query('SELECT 1 / 0'), { code: '22012' })
  await t.rejects(app.backgroundTasks.addInTransaction(client, task, 'third'), { code: '25P02' }, 'the error of the driver itself')
  await client.query('ROLLBACK TO here')
  await app.backgroundTasks.addInTransaction(client, task, 'fourth')
  await client.query('COMMIT')
  await until('both have run', () => ran.length === 2)
  t.same(ran, ['first', 'fourth'])
  t.same(await ordered(), [1])
  t.match(app.backgroundTasks.stats(), { stored: 3, dropped: 1, pending: 0 })
})

test('a transaction that is to be tried again fails with the code of Postgres', { skip: noPostgres }, async t => {
  const { app, client, pool, orders, order, task, ran } = await start(t)
  await app.ready()
  await order(1)
  await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE')
  await client.query(`SELECT * FROM ${orders}`)
  await app.backgroundTasks.addInTransaction(client, task, 'lost')
  await pool.query(`UPDATE ${orders} SET n = n + 1`)
  await t.rejects(client.query(`UPDATE ${orders} SET n = n + 10`), { code: '40001' })
  await client.query('ROLLBACK')
  await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE')
  await app.backgroundTasks.addInTransaction(client, task, 'kept')
  await client.query('COMMIT')
  await until('it has run', () => ran.length === 1)
  t.same(ran, ['kept'])
})

test('Kysely and Drizzle', { skip: noPostgres }, async t => {
  const { app, pool, orders, ordered, task, ran } = await start(t)
  await app.ready()
  const kysely = new Kysely<Record<string, { n: number }>>({ dialect: new PostgresDialect({ pool }) })
  const withKysely = (n: number) => kysely.transaction().execute(async trx => {
    await trx.insertInto(orders).values({ n }).execute()
    await app.backgroundTasks.addInTransaction((text, values) => trx.executeQuery(CompiledQuery.raw(text, values)), task, `kysely ${n}`)
    if (n % 2 === 0) throw new Error('no')
  })
  const db = drizzle({ client: pool })
  const withDrizzle = (n: number) => db.transaction(async tx => {
    await tx.execute(sql`INSERT INTO ${sql.identifier(orders)} VALUES (${n})`)
    await app.backgroundTasks.addInTransaction((text, [value]) => tx.execute(sql.join(text.split('$1').map(part => sql.raw(part)), sql`${value}`)), task, `drizzle ${n}`)
    if (n % 2 === 0) throw new Error('no')
  })
  await withKysely(1)
  await withDrizzle(3)
  await t.rejects(withKysely(2), { message: 'no' })
  await t.rejects(withDrizzle(4), { message: 'no' })
  await until('both have run', () => ran.length === 2)
  t.same(ran.sort(), ['drizzle 3', 'kysely 1'])
  t.same(await ordered(), [1, 3])
  const outside: TransactionClient[] = [
    (text, values) => kysely.executeQuery(CompiledQuery.raw(text, values)),
    (text, [value]) => db.execute(sql.join(text.split('$1').map(part => sql.raw(part)), sql`${value}`))
  ]
  for (const client of outside) await t.rejects(app.backgroundTasks.addInTransaction(client, task, 1), { code: 'FST_BGT_NO_TRANSACTION' })
})

test('rows that come alone', { skip: noPostgres }, async t => {
  const { app, client, task, ran } = await start(t)
  await app.ready()
  await client.query('BEGIN')
  await app.backgroundTasks.addInTransaction(async (text, values) => (await client.query(text, values)).rows, task, 1)
  await client.query('COMMIT')
  await until('it has run', () => ran.length === 1)
})

test('no transaction, no client, no such database', { skip: noPostgres }, async t => {
  const { app, client, pool, url, task, ran } = await start(t)
  await app.ready()
  const { backgroundTasks } = app
  await t.rejects(backgroundTasks.addInTransaction(client, task, 1), { code: 'FST_BGT_NO_TRANSACTION', message: /no pool/ })
  await t.rejects(backgroundTasks.addInTransaction(pool, task, 1), { code: 'FST_BGT_NO_TRANSACTION' })
  for (const no of [undefined, null, 1, {}, { query: 1 }]) {
    await t.rejects(backgroundTasks.addInTransaction(no as never, task, 1), { code: 'FST_BGT_INVALID_CLIENT', message: /query\(text, values\)/ })
  }
  const name = `other_${randomUUID().replaceAll('-', '')}`
  await pool.query(`CREATE DATABASE ${name}`)
  const other = new Client({ connectionString: Object.assign(new URL(url), { pathname: `/${name}` }).href })
  await other.connect()
  await other.query('BEGIN')
  await t.rejects(backgroundTasks.addInTransaction(other, task, 1), { code: 'FST_BGT_INVALID_CLIENT', message: /a database without "bullmq"\.add_job/ })
  await other.query('ROLLBACK; CREATE SCHEMA bullmq; BEGIN')
  await t.rejects(backgroundTasks.addInTransaction(other, task, 1), { code: 'FST_BGT_INVALID_CLIENT' })
  await other.end()
  await pool.query(`DROP DATABASE ${name}`)
  await client.query('BEGIN')
  for (const answer of [undefined, null, { rows: [] }, [], { rows: [{ id: 1 }] }]) {
    const query = (text: string, values: unknown[]) => client.query(text, values).then(() => answer as never)
    await t.rejects(backgroundTasks.addInTransaction(query, task, 1), { code: 'FST_BGT_INVALID_CLIENT', message: /\{ rows \}/ })
  }
  await client.query('ROLLBACK')
  t.same(ran, [])
  t.equal(backgroundTasks.stats().dropped, 14, 'each is accounted for')
})

test('a transaction that ends before the task is stored, since nobody waited, has no task', { skip: noPostgres }, async t => {
  const { app, client, task, ran, queue, pool } = await start(t, {}, { worker: false })
  await app.ready()
  for (const end of ['ROLLBACK', 'COMMIT', 'ROLLBACK; BEGIN']) {
    await client.query('BEGIN')
    const adding = app.backgroundTasks.addInTransaction(client, task, end)
    await Promise.all([client.query(end), t.rejects(adding, { code: 'FST_BGT_NO_TRANSACTION', message: /await this call before the transaction ends/ }, end)])
  }
  await client.query('COMMIT')
  t.same((await pool.query('SELECT id FROM bullmq.job WHERE queue = $1', [queue])).rows, [])
  t.same(ran, [])
})

test('an add with a dedupe id that a transaction holds waits for its end; others do not', { skip: noPostgres }, async t => {
  const { app, client, task, ran } = await start(t)
  app.get<{ Querystring: { dedupe?: string } }>('/', async ({ backgroundTasks, query: { dedupe } }) => {
    backgroundTasks.add(dedupe === undefined ? {} : { dedupe }, task, dedupe ?? 'without')
    return 'ok'
  })
  await app.ready()
  await client.query('BEGIN')
  await app.backgroundTasks.addInTransaction(client, { dedupe: 'held' }, task, 'in the transaction')
  const ends: string[] = []
  const send = async (url: string) => {
    const { statusCode } = await app.inject(url)
    ends.push(`${url} ${statusCode}`)
  }
  const held = [send('/?dedupe=held'), send('/')]
  await until('the one without an id has its reply', () => ends.length === 1)
  held.push(send('/?dedupe=held'))
  for (let n = 0; n < 3; n++) await send('/')
  t.same(ends, ['/ 200', '/ 200', '/ 200', '/ 200'])
  await client.query('COMMIT')
  await Promise.all(held)
  t.same(ends.slice(4), ['/?dedupe=held 200', '/?dedupe=held 200'])
  await until('the tasks have run', () => ran.includes('in the transaction') && ran.filter(one => one === 'without').length === 4)
})

test('temporary tables with names of BullMQ: refused, as the task would be stored there and lost', { skip: noPostgres }, async t => {
  const { app, client, order, ordered, task, ran } = await start(t)
  await app.ready()
  await client.query('CREATE TEMPORARY TABLE job (LIKE bullmq.job INCLUDING ALL); CREATE TEMPORARY TABLE other (n integer); BEGIN')
  await t.rejects(app.backgroundTasks.addInTransaction(client, task, 'hidden'), { code: 'FST_BGT_INVALID_CLIENT', message: /temporary tables/ })
  await order(1)
  await client.query('DROP TABLE pg_temp.job')
  await app.backgroundTasks.addInTransaction(client, task, 'seen')
  await client.query('COMMIT')
  await until('it has run', () => ran.length === 1)
  t.same([ran, await ordered()], [['seen'], [1]], 'the refusal leaves the transaction as it is')
})

test('errors of a client, wrapped or not', { skip: noPostgres }, async t => {
  const { app, task } = await start(t)
  await app.ready()
  const add = (error: unknown) => app.backgroundTasks.addInTransaction(async () => { throw error }, task, 1)
  /** As that of Prisma. */
  const wrapped = (code: string) => Object.assign(new Error('failed'), { code: 'P2010', meta: { driverAdapterError: new Error('failed', { cause: { code } }) } })
  for (const code of ['3F000', '42883']) await t.rejects(add(wrapped(code)), { code: 'FST_BGT_INVALID_CLIENT', cause: { code: 'P2010' } })
  await t.rejects(add(wrapped('40001')), { code: 'P2010' }, 'comes through as it is')
  const circle: Error = new Error('circle')
  circle.cause = circle
  await t.rejects(add(circle), { message: 'circle' })
  for (const thrown of [undefined, null, 'text', 42]) t.equal(await add(thrown).then(t.fail, error => error), thrown)
})

test('the options of add, in a schema of another name', { skip: noPostgres }, async t => {
  const { app, client, task, ran, queue, pool } = await start(t, { prefix: 'Other' })
  await app.ready()
  t.teardown(async () => { await client.query('DROP SCHEMA "Other" CASCADE') })
  const { backgroundTasks } = app
  await client.query('BEGIN')
  const options = { name: 'named', attempts: 4, backoff: { type: 'exponential', delay: 20, jitter: 0.5 }, timeout: 5_000, delay: 3_600_000, dedupe: 'one' } as const
  const first = await backgroundTasks.addInTransaction(client, options, task, 'a\0b')
  const second = await backgroundTasks.addInTransaction(client, { dedupe: 'one' }, task, 2)
  t.equal(first.name, 'named')
  t.equal(second.state, 'dropped')
  t.equal(await second.settled(), 'dropped')
  const third = await backgroundTasks.addInTransaction(client, { delay: 0 }, task, undefined)
  await client.query('COMMIT')
  t.equal(await third.settled(), 'completed')
  t.same(ran, [undefined])
  const { rows: [row] } = await pool.query(`SELECT name, state, data, opts, delay_ms::int, max_attempts, dedup_id, process_at_ms - added_at_ms - delay_ms AS moved,
    abs(extract(epoch FROM clock_timestamp()) * 1000 - added_at_ms) < 600000 AS is_recent FROM "Other".job WHERE queue = $1 AND id = $2`, [queue, first.id])
  t.match(row, {
    name: 'receipt',
    state: 'delayed',
    data: { label: 'named', payload: '"a\\u0000b"', timeout: 5_000, dedupe: 'one' },
    opts: { attempts: 4, delay: 3_600_000, backoff: options.backoff, deduplication: { id: 'one' } },
    delay_ms: 3_600_000,
    max_attempts: 4,
    dedup_id: 'one',
    moved: '0',
    is_recent: true
  })
  t.equal(await first.cancel(), true)
  t.equal(await backgroundTasks.find(first.id), null)
})

test('a large payload', { skip: noPostgres }, async t => {
  const { app, client, task, ran } = await start(t)
  await app.ready()
  const payload = 'ä'.repeat(2 ** 22)
  await client.query('BEGIN')
  const handle = await app.backgroundTasks.addInTransaction(client, task, payload)
  await client.query('COMMIT')
  t.equal(await handle.settled(), 'completed')
  t.ok(ran[0] === payload)
})
