import Redis from 'ioredis'
import { randomUUID } from 'node:crypto'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import type { TaskBackend } from '../../types/backend'
import { bullmq } from '../../lib/backends/bullmq'
import { sqlite } from '../../lib/backends/sqlite'
import { mapInSlices } from '../../lib/shared/slices'
import { block, createApp } from '../support/server'
import { noOwnRedis, noPostgres, noRedis, ownRedis, postgres, redis } from '../support/services'
import { newFile, noSqlite, rawConnection } from '../support/sqlite'
import { until } from '../support/until'

// Many tasks of one request: they are stored whole, and others have their turn meanwhile.

const COUNT = 5_500

const task = defineTask('task', async (n: number) => n)

async function serve (t: Test, backend: TaskBackend, count = COUNT) {
  const { app } = await createApp(t, { tasks: [task], backend, worker: false, storeTimeout: 60_000 })
  const ids: string[] = []
  app.get('/', async request => {
    ids.length = 0
    for (let n = 0; n < count; n++) ids.push(request.backgroundTasks.add(task, n).id)
    return 'x'
  })
  await app.ready()
  return { app, ids, counts: async () => (await backend.list!(1)).counts }
}

async function storesAll (t: Test, backend: TaskBackend): Promise<void> {
  const { app, ids, counts } = await serve(t, backend)
  t.equal((await app.inject('/')).statusCode, 200)
  t.match(await counts(), { waiting: COUNT })
  for (const id of [ids[0]!, ids.at(-1)!]) t.match(await app.backgroundTasks.find(id), { id, state: 'pending' })
  t.match(app.backgroundTasks.stats(), { stored: COUNT, pending: 0 })
}

test('SQLite: many tasks of one request are stored', { skip: noSqlite }, async t => storesAll(t, sqlite({ file: newFile(t) })))

for (const [writer, command] of [['direct', 'evalsha'], ['plain', 'exec']] as const) {
  test(`Redis, ${writer}: many tasks of one request are stored, in pieces`, { skip: noRedis }, async t => {
    const { url } = await redis(t)
    const client = new Redis(url)
    t.teardown(() => client.disconnect())
    const calls = async () => Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(await client.info('commandstats'))?.[1] ?? 0)
    const before = await calls()
    await storesAll(t, bullmq({ connection: url, queue: `large-${randomUUID()}`, writer }))
    t.ok(await calls() - before >= 5, 'a thousand at once')
  })

  test(`Postgres, ${writer}: many tasks of one request are stored`, { skip: noPostgres }, async t => {
    const { url } = await postgres(t)
    await storesAll(t, bullmq({ connection: url, queue: `large-${randomUUID()}`, writer }))
  })

  test(`Redis, ${writer}: where a piece is refused, what was stored before is taken out again`, { skip: noOwnRedis }, async t => {
    const { url } = await ownRedis(t)
    const queue = `large-${randomUUID()}`
    const client = new Redis(url)
    t.teardown(() => client.disconnect())
    const { app } = await serve(t, bullmq({ connection: url, queue, writer }), 50_000)
    const stored = () => client.llen(`bull:${queue}:wait`)
    const refused = app.inject('/')
    await until('a piece is stored', async () => await stored() >= 1_000)
    await client.config('SET', 'maxmemory', '1mb')
    const { statusCode, json } = await refused
    t.equal(statusCode, 503)
    t.match(json().message, /OOM/)
    await until('all of it is taken out', async () => await stored() === 0)
    await client.config('SET', 'maxmemory', '0')
    t.same(await client.keys(`bull:${queue}:*-*-*`), [])
  })
}

test('a list that takes long is done in slices, in its order', async t => {
  let turned = false
  const list = Array.from({ length: 130 }, (_, n) => n)
  const results = await mapInSlices(list, n => {
    if (n === 0) {
      setImmediate(() => { turned = true })
      block(15)
    }
    if (n === 1) t.ok(turned)
    return -n
  })
  t.same(results, list.map(n => -n))
})

test('SQLite: the event loop turns while many tasks are written, and all are stored or none', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { app, counts } = await serve(t, sqlite({ file, busyTimeout: 100 }))
  const other = rawConnection(file)
  t.teardown(() => other.close())

  other.exec(`CREATE TRIGGER refusing BEFORE INSERT ON tasks WHEN (SELECT COUNT(*) FROM tasks) = ${COUNT - 1} BEGIN SELECT RAISE(ABORT, 'enough'); END`)
  const refused = await app.inject('/')
  t.equal(refused.statusCode, 503)
  t.match(refused.json().message, /enough/)
  t.match(await counts(), { waiting: 0 })
  other.exec('DROP TRIGGER refusing; BEGIN IMMEDIATE')
  const busy = await app.inject('/')
  t.equal(busy.statusCode, 503)
  t.match(busy.json().message, /another process has held the file for 100 ms/)
  other.exec('ROLLBACK')
  t.equal((await app.inject('/')).statusCode, 200)
  t.match(await counts(), { waiting: COUNT })
})

test('SQLite: a close does not wait for many tasks that are being written, and none of them is stored', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const backend = sqlite({ file })
  const { app } = await serve(t, backend, 50_000)
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const isFree = () => {
    try {
      other.exec('BEGIN IMMEDIATE; ROLLBACK')
      return true
    } catch {
      return false
    }
  }
  const responses = [1, 2].map(async () => (await app.inject('/')).statusCode)
  await until('one is being written', () => !isFree())
  await backend.close(0)
  t.same(await Promise.all(responses), [503, 503])
  t.same(other.prepare('SELECT COUNT(*) AS count FROM tasks').get(), { count: 0 })
})
