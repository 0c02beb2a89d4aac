import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/sqlite-proxy'
import { Kysely, SqliteDialect, type SqliteDatabase } from 'kysely'
import { copyFileSync, symlinkSync } from 'node:fs'
import { relative } from 'node:path'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../index'
import { sqlite } from '../lib/backends/sqlite'
import type { Database } from '../lib/backends/sqlite/node-sqlite'
import { createApp } from './support/server'
import { newFile, noSqlite } from './support/sqlite'
import { until } from './support/until'

// A task in the user's own transaction, in the file of SQLite that has the tasks.

/** Members of `node:sqlite` that only the tests use. */
type Options = { readBigInts?: boolean, returnArrays?: boolean }

function open (t: Test, file: string, options: Options = {}): Database {
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite') as unknown as { DatabaseSync: new (file: string, options: Options) => Database }
  const database = new DatabaseSync(file, options)
  t.teardown(() => { try { database.close() } catch { /* The test has closed it. */ } })
  return database
}

/** An application with a worker, and a connection of the user's with a table of the user's beside the tasks. */
async function start (t: Test, plugin: BackgroundTasksOptions = {}, options: Options = {}, busyTimeout = 100_000) {
  const ran: unknown[] = []
  const task = defineTask('receipt', async (payload: unknown) => {
    ran.push(payload)
    return 'sent'
  })
  const file = newFile(t)
  const { app, log } = await createApp(t, { tasks: [task], backend: sqlite({ file: relative(process.cwd(), file), pollInterval: 20, busyTimeout }), ...plugin })
  await app.ready()
  const db = open(t, file, options)
  db.exec('CREATE TABLE orders (n INTEGER)')
  const order = (n: number) => db.prepare('INSERT INTO orders VALUES (?)').run(n)
  const ordered = () => db.prepare('SELECT n FROM orders').all().map(row => Object.values(row)[0])
  return { app, log, file, task, ran, db, order, ordered }
}

test('a task runs if the transaction commits, and never existed if it does not', { skip: noSqlite }, async t => {
  const { app, db, order, ordered, task, ran } = await start(t)
  const { backgroundTasks } = app
  db.exec('BEGIN IMMEDIATE')
  order(1)
  const lost = await backgroundTasks.addInTransaction(db, task, 1)
  t.equal(lost.state, 'stored')
  t.equal(await backgroundTasks.find(lost.id), null)
  db.exec('ROLLBACK')
  db.exec('BEGIN')
  order(2)
  const kept = await backgroundTasks.addInTransaction(db, task, { n: 2 })
  const { id } = kept
  const settled = kept.settled()
  t.equal(await backgroundTasks.find(id), null)
  db.exec('COMMIT')
  t.equal(await settled, 'completed')
  t.match(await backgroundTasks.find(id), { id, name: 'receipt', state: 'completed', result: 'sent' })
  t.equal(await backgroundTasks.find(lost.id), null)
  t.same(ran, [{ n: 2 }])
  t.same(ordered(), [2])
  t.match(backgroundTasks.stats(), { stored: 2, pending: 0 })
  const end = lost.settled()
  await app.close()
  t.equal(await end, 'stored', 'after a rollback it resolves when the application has closed')
})

test('a synchronous transaction is rolled back by what addInTransaction throws', { skip: noSqlite }, async t => {
  const { app, db, order, ordered, task, ran } = await start(t)
  /** As `transaction` of better-sqlite3. */
  const transaction = (run: () => void) => {
    db.exec('BEGIN IMMEDIATE')
    try {
      run()
    } catch (error) {
      db.exec('ROLLBACK')
      throw error
    }
    db.exec('COMMIT')
  }
  const place = (n: number, payload: unknown) => transaction(() => {
    order(n)
    app.backgroundTasks.addInTransaction(db, task, payload)
  })
  t.throws(() => place(1, new Map()), { code: 'FST_BGT_INVALID_PAYLOAD' })
  place(2, 'two')
  db.exec('CREATE TRIGGER no BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, \'the disk is full\'); END')
  t.throws(() => place(3, 'three'), { message: 'the disk is full' })
  await until('it has run', () => ran.length === 1)
  t.same(ran, ['two'])
  t.same(ordered(), [2])
  t.match(app.backgroundTasks.stats(), { stored: 1, dropped: 1, pending: 0 })
})

test('a savepoint that is rolled back takes its task along', { skip: noSqlite }, async t => {
  const { app, db, task, ran } = await start(t)
  db.exec('BEGIN')
  await app.backgroundTasks.addInTransaction(db, task, 'first')
  db.exec('SAVEPOINT here')
  await app.backgroundTasks.addInTransaction(db, task, 'second')
  db.exec('ROLLBACK TO here')
  await app.backgroundTasks.addInTransaction(db, task, 'third')
  db.exec('COMMIT')
  await until('both have run', () => ran.length === 2)
  t.same(ran, ['first', 'third'])
})

test('the options of add, whatever a connection has rows and integers be', { skip: noSqlite }, async t => {
  for (const connection of [{}, { readBigInts: true }, { returnArrays: true }]) {
    const { app, db, file, task, ran } = await start(t, {}, connection)
    const { backgroundTasks } = app
    db.exec('BEGIN')
    const options = { name: 'named', attempts: 4, backoff: 20, timeout: 5_000, delay: 3_600_000, dedupe: 'one' }
    const first = await backgroundTasks.addInTransaction(db, options, task, 'a\0b')
    const second = await backgroundTasks.addInTransaction(db, { dedupe: 'one' }, task, 2)
    t.equal(first.name, 'named')
    t.equal(second.state, 'dropped')
    t.equal(await second.settled(), 'dropped')
    const third = await backgroundTasks.addInTransaction(db, { runOn: undefined, key: undefined } as never, task, undefined)
    db.exec('COMMIT')
    t.equal(await third.settled(), 'completed')
    t.same(ran, [undefined])
    const row = open(t, file).prepare('SELECT task, state, due - added_at AS wait, dedupe FROM tasks WHERE id = ?').get(first.id) as { task: string }
    t.match(row, { state: 'pending', wait: 3_600_000, dedupe: 'one' })
    t.match(JSON.parse(row.task), {
      id: first.id, name: 'receipt', label: 'named', payload: '"a\\u0000b"', requestId: null, attempts: 4, backoff: { type: 'fixed', delay: 20, jitter: 0 }, timeout: 5_000
    })
    t.equal(await first.cancel(), true)
  }
})

/** @param place adds an order and its task in one transaction, which even numbers roll back */
async function runsWhatCommits (t: Test, { ran, ordered }: Awaited<ReturnType<typeof start>>, place: (n: number) => Promise<unknown>): Promise<void> {
  await place(1)
  await t.rejects(place(2), { message: 'no' })
  await until('it has run', () => ran.length === 1)
  t.same([ran, ordered()], [[1], [1]])
}

test('Kysely', { skip: noSqlite }, async t => {
  const started = await start(t)
  const { app, db, task } = started
  const database: SqliteDatabase = {
    close () {},
    prepare (text) {
      const statement = db.prepare(text)
      const reader = /^select/i.test(text)
      return { reader, all: values => statement.all(...values as []), run: values => statement.run(...values as []) as never, iterate () { throw new Error('not used') } }
    }
  }
  const kysely = new Kysely<{ orders: { n: number } }>({ dialect: new SqliteDialect({ database }) })
  const place = (n: number) => kysely.transaction().execute(async trx => {
    await trx.insertInto('orders').values({ n }).execute()
    await app.backgroundTasks.addInTransaction(db, task, n)
    if (n % 2 === 0) throw new Error('no')
  })
  await runsWhatCommits(t, started, place)
})

test('Drizzle', { skip: noSqlite }, async t => {
  const started = await start(t)
  const { app, db, task } = started
  const drizzled = drizzle(async (text, params, method) => {
    const statement = db.prepare(text)
    return { rows: method === 'run' ? (statement.run(...params), []) : statement.all(...params).map(row => Object.values(row)) }
  })
  const place = (n: number) => drizzled.transaction(async tx => {
    await tx.run(sql`INSERT INTO orders VALUES (${n})`)
    await app.backgroundTasks.addInTransaction(db, task, n)
    if (n % 2 === 0) throw new Error('no')
  })
  await runsWhatCommits(t, started, place)
})

test('no transaction, no client, another file', { skip: noSqlite }, async t => {
  const { app, db, file, task, ran } = await start(t)
  const { backgroundTasks } = app
  const add = (client: unknown) => backgroundTasks.addInTransaction(client as never, task, 1)
  t.throws(() => add(db), { code: 'FST_BGT_NO_TRANSACTION', message: /BEGIN IMMEDIATE/ })
  db.exec('BEGIN; COMMIT')
  for (const no of [undefined, null, 1, () => {}, { query () {} }, { exec () {} }]) t.throws(() => add(no), { code: 'FST_BGT_INVALID_CLIENT', message: /a DatabaseSync of node:sqlite/ })
  const other = newFile(t)
  copyFileSync(file, other)
  for (const [path, message] of [[other, other], [':memory:', 'one to a database in memory']] as const) {
    const connection = open(t, path)
    connection.exec('BEGIN')
    t.throws(() => add(connection), { code: 'FST_BGT_INVALID_CLIENT', message: new RegExp(`to .*${file}.*received.*${message}`) })
  }
  const closed = open(t, file)
  closed.close()
  t.throws(() => add(closed), { message: 'database is not open' })
  t.same(ran, [])
  t.match(backgroundTasks.stats(), { dropped: 10, stored: 0 })
})

test('tasks in memory are out of reach', { skip: noSqlite }, async t => {
  const task = defineTask('task', async () => {})
  const { app } = await createApp(t, { tasks: [task], backend: sqlite({ file: ':memory:' }) })
  await app.ready()
  const db = open(t, ':memory:')
  db.exec('BEGIN')
  t.throws(() => app.backgroundTasks.addInTransaction(db, task), { code: 'FST_BGT_INVALID_CLIENT', message: /':memory:'/ })
})

test('a link to the file leads to the same tasks', { skip: noSqlite }, async t => {
  const { app, file, task, ran } = await start(t)
  const link = newFile(t)
  symlinkSync(file, link)
  const db = open(t, link)
  db.exec('BEGIN')
  await app.backgroundTasks.addInTransaction(db, task, 1)
  db.exec('COMMIT')
  await until('it has run', () => ran.length === 1)
})

test('other tasks wait for a transaction that stays open, busyTimeout at most', { skip: noSqlite }, async t => {
  const { app, db, task, ran } = await start(t, { storeTimeout: 100_000 }, {}, 50)
  db.exec('BEGIN IMMEDIATE')
  const mine = await app.backgroundTasks.addInTransaction(db, task, 'mine')
  await t.rejects(mine.cancel(), { message: 'another process has held the file for 50 ms' })
  const theirs = app.backgroundTasks.add(task, 'theirs')
  t.equal(await theirs.settled(), 'failed')
  db.exec('COMMIT')
  await until('the first one has run', () => ran.length === 1)
  t.equal(await app.backgroundTasks.add(task, 'next').settled(), 'completed')
  t.same(ran, ['mine', 'next'])
})

test('an application begins with a file that has tables of the user\'s beside the tasks', { skip: noSqlite }, async t => {
  const { app, db, file, task } = await start(t)
  db.exec('BEGIN; INSERT INTO orders VALUES (1)')
  await app.backgroundTasks.addInTransaction(db, { delay: 3_600_000 }, task, 1)
  db.exec('COMMIT')
  await app.close()
  const { app: next } = await createApp(t, { tasks: [task], backend: sqlite({ file }) })
  await next.ready()
  const [count] = db.prepare('SELECT count(*) AS count FROM tasks, orders').all()
  t.match(count, { count: 1 })
})

test('a task whose dedupe id is taken is told of in the log', { skip: noSqlite }, async t => {
  const { app, log, db, task } = await start(t, { worker: false })
  db.exec('BEGIN')
  await app.backgroundTasks.addInTransaction(db, { dedupe: 'one' }, task, 1)
  const second = await app.backgroundTasks.addInTransaction(db, { dedupe: 'one' }, task, 1)
  db.exec('ROLLBACK')
  t.match(log.find(({ msg }) => msg === 'background task dropped'), { task: { id: second.id } })
})
