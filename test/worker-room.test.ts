import Redis from 'ioredis'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Client } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import type { TaskBackend } from '../types/backend'
import { sqlite } from '../lib/backends/sqlite'
import { createApp, signal, turns } from './support/server'
import { noPostgres, noRedis, postgres, redis } from './support/services'
import { newFile, noSqlite, rawConnection } from './support/sqlite'
import { StubBackend } from './support/stub-backend'
import { moduleFile } from './support/threads'
import { until } from './support/until'

// A worker takes no more from a backend than can begin.

const HOLD = `
  import { existsSync } from 'node:fs'
  import { setTimeout as sleep } from 'node:timers/promises'
  export default async gate => { while (!existsSync(gate)) await sleep(10) }`

/** @param backend makes one for the same place each time */
async function threadsBound (t: Test, backend: () => TaskBackend): Promise<void> {
  const file = moduleFile(t, HOLD)
  const gate = join(file, '..', `${randomUUID()}.gate`)
  const hold = defineTask<string>('hold', file)
  const quick = defineTask('quick', async (n: number) => n)
  const threads = { max: 1 }
  const tasks = [hold, quick]
  const listing = backend()
  const { app: web } = await createApp(t, { tasks, backend: listing, worker: false })
  await web.ready()
  const holding = [1, 2, 3].map(() => web.backgroundTasks.add(hold, gate))
  await web.backgroundTasks.flush()
  const passing = [1, 2, 3].map(n => web.backgroundTasks.add(quick, n))
  await web.backgroundTasks.flush()
  const counts = async () => (await listing.list!(10)).counts
  const { app: first } = await createApp(t, { tasks, backend: backend(), threads, worker: { concurrency: 2 } })
  await first.ready()
  for (const handle of passing) t.equal(await handle.settled(), 'completed', 'what needs no thread passes by')
  await until('the first worker has one task, and leaves the others', async () => {
    const { running, waiting, delayed } = await counts()
    return running === 1 && waiting + delayed === 2
  })
  t.equal(first.backgroundTasks.stats().running, 1)
  const { app: second } = await createApp(t, { tasks, backend: backend(), threads })
  await second.ready()
  await until('the second worker has one, too', async () => second.backgroundTasks.stats().running === 1 && (await counts()).running === 2)
  writeFileSync(gate, '')
  for (const handle of holding) t.equal(await handle.settled(), 'completed')
}

test('SQLite: a worker takes no tasks for which it has no free thread', { skip: noSqlite }, async t => {
  const file = newFile(t)
  await threadsBound(t, () => sqlite({ file, pollInterval: 20 }))
})

test('Redis: a worker takes no tasks for which it has no free thread', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `room-${randomUUID()}`
  await threadsBound(t, () => bullmq({ connection: url, queue }))
})

test('Postgres: a worker takes no tasks for which it has no free thread', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `room-${randomUUID()}`
  await threadsBound(t, () => bullmq({ connection: url, queue }))
})

test('Redis: a worker looks behind so many tasks for which it has no thread, and no further; all of them run', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `room-${randomUUID()}`
  const file = moduleFile(t, HOLD)
  const gate = join(file, '..', `${randomUUID()}.gate`)
  const hold = defineTask<string>('hold', file)
  const quick = defineTask('quick', async () => {})
  const listing = bullmq({ connection: url, queue })
  const { app: web } = await createApp(t, { tasks: [hold, quick], backend: listing, worker: false })
  await web.ready()
  const holding = Array.from({ length: 110 }, () => web.backgroundTasks.add(hold, gate))
  await web.backgroundTasks.flush()
  const behind = web.backgroundTasks.add(quick)
  await web.backgroundTasks.flush()
  const { app } = await createApp(t, { tasks: [hold, quick], backend: bullmq({ connection: url, queue }), threads: { max: 1 } })
  await app.ready()
  await until('a hundred are put aside', async () => {
    const { running, waiting, delayed } = (await listing.list!(1)).counts
    return running === 1 && delayed >= 100 && waiting > 0
  })
  t.match(await web.backgroundTasks.find(behind.id), { state: 'pending' })
  writeFileSync(gate, '')
  for (const handle of [...holding, behind]) t.equal(await handle.settled(), 'completed')
})

/**
 * @param backend makes one for the same place each time
 * @param crash makes it so that a worker went away with a task
 */
async function runsAlone (t: Test, backend: () => TaskBackend, crash: (id: string) => Promise<unknown>): Promise<void> {
  const events: string[] = []
  const gate = signal()
  const task = defineTask('task', async (name: string, { signal }) => {
    events.push(`${name} begins`)
    if (name === 'long') await Promise.race([gate.promise, once(signal, 'abort').then(() => { throw signal.reason })])
    await turns()
    events.push(`${name} ends`)
  })
  const { app: web } = await createApp(t, { tasks: [task], backend: backend(), worker: false })
  await web.ready()
  const add = async (name: string) => {
    const handle = web.backgroundTasks.add(task, name)
    const { id } = handle
    await web.backgroundTasks.flush()
    return { id, handle }
  }
  await add('long')
  const others = []
  for (const name of ['crashed', 'a', 'b', 'crashed']) others.push({ name, ...await add(name) })
  for (const { name, id } of others) if (name === 'crashed') await crash(id)

  const { app: closing } = await createApp(t, { tasks: [task], backend: backend(), closeTimeout: 100 })
  await closing.ready()
  await until('the long one runs', () => events.length !== 0)
  await closing.close()
  t.same(events, ['long begins'], 'what has to run alone has not begun, and nothing else before it')
  for (const { id } of others) t.match(await web.backgroundTasks.find(id), { state: 'pending', attempts: 0 })

  events.length = 0
  const { app } = await createApp(t, { tasks: [task], backend: backend() })
  await app.ready()
  await until('the long one runs', () => events.includes('long begins'))
  gate.resolve()
  for (const { handle } of others) t.equal(await handle.settled(), 'completed')
  await until('all have ended', () => events.length === 10)
  let open = 0
  events.forEach((event, index) => {
    if (event === 'crashed begins') {
      t.equal(open, 0, 'nothing runs when it begins')
      t.equal(events[index + 1], 'crashed ends', 'nothing begins beside it')
    }
    open += event.endsWith('begins') ? 1 : -1
  })
}

test('SQLite: a task under which a worker went away runs alone', { skip: noSqlite }, async t => {
  const file = newFile(t)
  await runsAlone(t, () => sqlite({ file, pollInterval: 20 }), async id => {
    const other = rawConnection(file)
    other.exec(`UPDATE tasks SET crashes = 1 WHERE id = '${id}'`)
    other.close()
  })
})

test('Redis: a task under which a worker went away runs alone', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const queue = `room-${randomUUID()}`
  await runsAlone(t, () => bullmq({ connection: url, queue }), id => client.hset(`bull:${queue}:${id}`, 'stc', 1))
})

test('Postgres: a task under which a worker went away runs alone', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const client = new Client({ connectionString: url })
  t.teardown(() => client.end())
  await client.connect()
  const queue = `room-${randomUUID()}`
  await runsAlone(t, () => bullmq({ connection: url, queue }), id => client.query('UPDATE bullmq.job SET stalled_count = 1 WHERE id = $1', [id]))
})

test('a worker takes no more tasks at once than can run', async t => {
  const onThread = defineTask<string>('hold', moduleFile(t, HOLD))
  const here = defineTask('here', async () => {})
  for (const [options, places] of [
    [{ tasks: [here] }, 10],
    [{ tasks: [here], concurrency: 3 }, 3],
    [{ tasks: [here], concurrency: 30, worker: { concurrency: 20 } }, 20],
    [{ tasks: [onThread], threads: { max: 2 } }, 2],
    [{ tasks: [onThread], threads: { max: 20 } }, 10],
    [{ tasks: [onThread, here], threads: { max: 2 } }, 10],
    [{ tasks: [] }, 10]
  ] as const) {
    const backend = new StubBackend()
    const { app } = await createApp(t, { ...options, tasks: [...options.tasks], backend })
    await app.ready()
    t.equal(backend.concurrency, places)
    await app.close()
  }
})
