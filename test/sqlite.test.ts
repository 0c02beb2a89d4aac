import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { test, type Test } from 'tap'
import { defineTask, type TaskContext, type TaskHandle } from '../index'
import type { Deliver, Delivery, StoredTask } from '../types/backend'
import { sqlite, type SqliteOptions } from '../lib/backends/sqlite'
import { Connection } from '../lib/backends/sqlite/connection'
import { NEVER_MS, until } from './support/until'
import { block, createApp as createPlainApp, signal } from './support/server'
import { newFile, noSqlite, rawConnection } from './support/sqlite'
import { storedTask, work } from './support/stub-backend'

// Matters of SQLite alone: options, leases, a busy or broken file, retention.

const task = defineTask('task', async (n: number) => n)

const createApp = (t: Test, options: SqliteOptions, more = {}) => createPlainApp(t, { tasks: [task], backend: sqlite(options), ...more })

/** A backend without an application. */
async function open (t: Test, options: SqliteOptions) {
  const backend = sqlite(options)
  const log: Array<{ msg: string, err?: Error }> = []
  const logger = (bindings: object) => {
    const write = (fields: object, msg: string) => { log.push({ ...bindings, ...fields, msg }) }
    return { warn: write, error: write } as unknown as FastifyBaseLogger
  }
  t.teardown(() => backend.close(100))
  await backend.start(logger({}), requestId => logger({ requestId }), 5_000, new Map())
  return { backend, log }
}

let ids = 0

const stored = (more: Partial<StoredTask> = {}): StoredTask => storedTask({
  id: `00000000-0000-4000-8000-${String(++ids).padStart(12, '0')}`,
  name: 'task',
  label: 'a task',
  ...more
})

test('the options are checked', async t => {
  const wrong: Array<[object | undefined, string]> = [
    [undefined, 'file'], [{}, 'file'], [{ file: '' }, 'file'], [{ file: 5 }, 'file'],
    [{ file: 'x', lockDuration: 0 }, 'lockDuration'], [{ file: 'x', pollInterval: '1' }, 'pollInterval'], [{ file: 'x', busyTimeout: Infinity }, 'busyTimeout'],
    [{ file: 'x', maxCrashes: 0.5 }, 'maxCrashes'], [{ file: 'x', maxCrashes: -1 }, 'maxCrashes'],
    [{ file: 'x', retain: 5 }, 'retain'], [{ file: 'x', retain: null }, 'retain'], [{ file: 'x', retain: { dropped: { age: 1, count: 1 } } }, 'retain'],
    [{ file: 'x', retain: { completed: { age: 1 } } }, 'retain'], [{ file: 'x', retain: { failed: null } }, 'retain']
  ]
  for (const [options, name] of wrong) {
    t.throws(() => sqlite(options as SqliteOptions), { code: 'FST_BGT_INVALID_OPTION', message: new RegExp(`'${name}'`) }, JSON.stringify(options))
  }
  t.throws(() => sqlite({ file: 'x', lockduration: 1 } as SqliteOptions), { code: 'FST_BGT_UNKNOWN_OPTION', message: /'lockduration'; the options are file, lockDuration/ })
  t.equal(sqlite({ file: 'x', maxCrashes: 0, lockDuration: undefined as never }).name, 'SQLite')
})

test('in memory, for tests', { skip: noSqlite }, async t => {
  const { app } = await createApp(t, { file: ':memory:' })
  app.get('/', async request => request.backgroundTasks.add(task, 1).id)
  const id = (await app.inject('/')).body
  t.match(await until('its end', async () => {
    const info = await app.backgroundTasks.find(id)
    return info?.state === 'completed' && info
  }), { result: 1 })
})

test('what this version knows nothing of comes out as it went in', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  const seen: Delivery[] = []
  await work(backend, 1, async delivery => {
    seen.push(delivery)
    return { state: 'completed', result: undefined }
  })
  const newer = { ...stored(), trace: { parent: 'x' } }
  t.same(await backend.store([[newer]]), [[newer.id]])
  await until('it ran', () => seen.length === 1)
  t.same(seen[0]!.task, newer)
})

test('the error of an attempt is not that of the task while another one is to come', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  await work(backend, 1, async () => ({ state: 'failed', error: new Error('no') }))
  const task = { ...stored(), attempts: 2, backoff: { type: 'fixed' as const, delay: 3_600_000, jitter: 0 } }
  await backend.store([[task]])
  const info = await until('it has failed once', async () => {
    const info = await backend.find(task.id)
    return info?.attempts === 1 && info.state === 'pending' && info
  })
  t.equal(info.error, undefined)
  t.match((await backend.list!(10)).tasks, [{ state: 'retrying', error: { message: 'no' } }])
})

test('the same task stored twice is one; cancelled in between, it counts as new', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  const task = stored()
  t.same(await backend.store([[task]]), [[task.id]])
  t.same(await backend.store([[task]]), [[task.id]])
  t.equal(await backend.cancel(task.id), true)
  t.equal(await backend.cancel(task.id), false)
  t.equal(await backend.retry!(task.id), false)
  t.match(await backend.find(task.id), { state: 'cancelled', attempts: 0 })
  t.same(await backend.store([[task]]), [[task.id]])
  t.match(await backend.find(task.id), { state: 'pending' })
})

test('tasks run in the order in which they were stored', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  const tasks = Array.from({ length: 50 }, () => stored())
  await backend.store([tasks])
  const seen: string[] = []
  await work(backend, 7, async ({ task: { id } }) => {
    seen.push(id)
    return { state: 'completed', result: undefined }
  })
  await until('all', () => seen.length === 50)
  t.same(seen, tasks.map(({ id }) => id))
})

test('a write that fails does not take the others with it, and leaves nothing behind', { skip: noSqlite }, async t => {
  const connection = await Connection.open('SQLite', newFile(t), 1_000)
  t.teardown(() => connection.close())
  const insert = connection.prepare("INSERT INTO tasks (id, task, state, due) VALUES (?, '{}', 'pending', 0)")
  const rollback = connection.prepare('ROLLBACK')
  const ends = await Promise.allSettled([
    connection.write(() => insert.run('a').changes),
    connection.write(() => {
      insert.run('b')
      throw new Error('no')
    }),
    connection.write(() => {
      insert.run('c')
      // As SQLite itself does where the disk is full.
      rollback.run()
      throw new Error('full')
    }),
    connection.write(() => insert.run('d').changes)
  ])
  t.match(ends, [{ value: 1 }, { reason: { message: 'no' } }, { reason: { message: 'full' } }, { value: 1 }])
  t.same(connection.prepare('SELECT id FROM tasks').all().map(({ id }) => id), ['a', 'd'])
})

test('while another process writes, a request waits, and others are answered', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { app } = await createApp(t, { file, busyTimeout: NEVER_MS }, { worker: false, storeTimeout: NEVER_MS })
  app.get('/', async request => request.backgroundTasks.add(task, 1).id)
  app.get('/idle', async () => 'idle')
  await app.ready()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  const answered: string[] = []
  const answer = app.inject('/').then(({ statusCode }) => answered.push(`stored ${statusCode}`))
  for (let i = 0; i < 20; i++) answered.push((await app.inject('/idle')).body)
  other.exec('COMMIT')
  await answer
  t.same(answered, [...Array(20).fill('idle'), 'stored 200'])
})

test('a request waits for another process that writes as long as busyTimeout says', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { app } = await createApp(t, { file, busyTimeout: 400 }, { worker: false })
  app.get('/', async request => request.backgroundTasks.add(task, 1).id)
  await app.ready()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  const refused = await app.inject('/')
  t.equal(refused.statusCode, 503)
  t.match(refused.json(), { code: 'FST_BGT_STORE_FAILED', message: /another process has held the file for 400 ms/ })
  other.exec('COMMIT')
  t.equal((await app.inject('/')).statusCode, 200)
})

test('a process that has held its thread for longer than it waits for others has not waited for them', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file, busyTimeout: 200 })
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  const task = stored()
  const written = backend.store([[task]])
  block(300)
  setTimeout(() => other.exec('COMMIT'), 20)
  t.same(await written, [[task.id]])
})

test('a worker that has gone: its tasks are handed out again, before others, and at last they fail', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend, log } = await open(t, { file, maxCrashes: 1, pollInterval: 10 })
  const [first, second, third] = [stored({ requestId: 'req-1' }), stored({ requestId: 'req-2' }), stored()]
  await backend.store([[first, second, third]])
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const lease = Date.now() + 1_000
  other.exec(`UPDATE tasks SET state = 'running', owner = 'gone', deliveries = 1, lease_until = ${lease}, crashes = id = '${first.id}', errors = '[{"message":"the first attempt"}]' WHERE id <> '${third.id}'`)
  const seen: Array<{ id: string, attempt: number }> = []
  const gate = signal()
  await work(backend, 1, async ({ task: { id }, attempt }) => {
    seen.push({ id, attempt })
    if (id === third.id) await gate.promise
    return { state: 'completed', result: undefined }
  })
  await until('what has no other worker', () => seen.length === 1)
  const fourth = stored()
  await backend.store([[fourth]])
  await until('the lease has ended', async () => (await backend.find(first.id))?.state === 'failed')
  t.ok(Date.now() >= lease)
  gate.resolve()
  await until('all', () => seen.length === 3)
  t.same(seen, [third, second, fourth].map(({ id }) => ({ id, attempt: 1 })))
  t.match(await backend.find(first.id), { error: { message: /more than 1 workers went away with it/ } })
  t.match((await backend.read!(first.id))!.errors, [{ message: 'the first attempt' }, { message: /more than 1 workers went away with it/ }])
  t.match(log, [
    { msg: /handed out again/, requestId: 'req-2', task: { id: second.id, name: 'a task' } },
    { msg: /too many workers went away/, requestId: 'req-1', task: { id: first.id, name: 'a task' } }
  ])
})

test('a worker that was taken for dead is told so, and its end does not count', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend, log } = await open(t, { file, lockDuration: 90 })
  const kept = stored()
  const lost = stored({ requestId: 'req-9' })
  const aborted: string[] = []
  const gate = signal()
  await work(backend, 2, async ({ task: { id }, signal }) => {
    if (id === kept.id) await gate.promise
    else await once(signal, 'abort').then(() => { aborted.push(id) })
    // It does not stop at once.
    if (id === lost.id) await gate.promise
    return { state: 'completed', result: 'mine' }
  })
  await backend.store([[kept, lost]])
  await until('both run', async () => (await backend.find(lost.id))?.state === 'running')
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec(`UPDATE tasks SET owner = 'other', deliveries = deliveries + 1, lease_until = ${Date.now() + 60_000} WHERE id = '${lost.id}'`)
  await until('it is told', () => aborted.length === 1)
  t.match(log, [{ msg: /taken over by another worker/, requestId: 'req-9', task: { id: lost.id, name: 'a task' } }])
  t.equal(await backend.cancel(lost.id), false, 'it runs elsewhere')
  await sleep(200)
  t.match(await backend.find(kept.id), { state: 'running' }, 'longer than a lease')
  t.equal(log.length, 1, 'that is said once')
  gate.resolve()
  await until('the one that was kept', async () => (await backend.find(kept.id))?.state === 'completed')
  t.match(await backend.find(lost.id), { state: 'running', result: undefined })
  t.equal(aborted.length, 1)
})

test('old tasks and those that are too many go', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file, retain: { completed: { age: 1_000, count: 2 }, failed: { age: 0, count: 10 } } })
  await work(backend, 50, async ({ task: { attempts } }) => attempts === 1 ? { state: 'completed', result: undefined } : { state: 'cancelled' })
  const tasks = Array.from({ length: 1_500 }, () => stored())
  const cancelled = stored({ attempts: 2 })
  await backend.store([[...tasks, cancelled]])
  const count = async () => (await Promise.all(tasks.map(({ id }) => backend.find(id)))).filter(info => info !== null).length
  t.ok(await until('most are gone', async () => await count() === 2), 'as many are kept as the option says')
  t.ok(await until('the cancelled one is gone', async () => await backend.find(cancelled.id) === null), 'as old ones as the option says')
})

/** Counts the statements that any connection of this process runs from now on, or those with this text. */
function countRuns (t: Test, sql?: string): () => number {
  const { StatementSync } = process.getBuiltinModule('node:sqlite' as never) as { StatementSync: { prototype: { sourceSQL: string, run (...values: unknown[]): unknown } } }
  const { run } = StatementSync.prototype
  let runs = 0
  StatementSync.prototype.run = function (...values) {
    if (sql === undefined || this.sourceSQL === sql) runs++
    return run.apply(this, values)
  }
  t.teardown(() => { StatementSync.prototype.run = run })
  return () => runs
}

test('the end of a task and the begin of the next one are one transaction', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  await backend.store([Array.from({ length: 100 }, () => stored())])
  const transactions = countRuns(t, 'COMMIT')
  let ended = 0
  await work(backend, 1, async () => {
    await sleep(1)
    ended++
    return { state: 'completed', result: undefined }
  })
  await until('all', () => ended === 100)
  const count = transactions()
  t.ok(count >= 100 && count < 150, `${count} for 100 tasks`)
})

test('a worker that has nothing to do, and nothing to remove any more, writes nothing', { skip: noSqlite }, async t => {
  const runs = countRuns(t)
  const { backend } = await open(t, { file: ':memory:', retain: { completed: { age: 1_000, count: 0 } } })
  await work(backend, 1, async () => ({ state: 'completed', result: undefined }))
  const task = stored()
  await backend.store([[task]])
  await until('it is removed', async () => await backend.find(task.id) === null)
  await sleep(100)
  const before = runs()
  await sleep(2_500)
  t.equal(runs(), before)
})

test('a task that waits for a free thread keeps no later one from beginning when it is due', { skip: noSqlite }, async t => {
  // Nothing but its own timer wakes the worker.
  const { backend } = await open(t, { file: newFile(t), pollInterval: 2_147_483_647, lockDuration: NEVER_MS })
  const delivered: string[] = []
  const end = signal()
  await backend.work(3, async ({ task: { name } }) => {
    delivered.push(name)
    await end.promise
    return { state: 'completed', result: undefined }
  }, { names: new Set(['on a thread']), free: () => 1 })
  await backend.store([[stored({ name: 'on a thread' }), stored({ name: 'on a thread' }), stored({ name: 'later', delay: 300 })]])
  await until('it has begun', () => delivered.includes('later'))
  t.same(delivered, ['on a thread', 'later'])
  end.resolve()
})

test('many old tasks go soon, and a few at a time: they hold the thread', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file, retain: { completed: { age: 1_000_000, count: 10 }, failed: { age: 1, count: 10_000 } } })
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const fill = (state: string, settledAt: number) => other.exec(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
    INSERT INTO tasks (id, task, state, due, settled_at) SELECT '${state}' || i, '{}', '${state}', 0, ${settledAt} - i % 7 FROM n`)
  fill('completed', Date.now())
  fill('failed', Date.now() - 2_000)
  const count = other.prepare('SELECT COUNT(*) AS count FROM tasks')
  let most = 0
  let left = 10_000
  const { write } = Connection.prototype
  t.teardown(() => { Connection.prototype.write = write })
  // It resolves with its transaction; the next one is in another turn of the event loop.
  Connection.prototype.write = function<T> (this: Connection, run: () => T): Promise<T> {
    return write.call(this, run).finally(() => {
      const now = count.get()!.count as number
      most = Math.max(most, left - now)
      left = now
    }) as Promise<T>
  }
  await work(backend, 1, async () => ({ state: 'completed', result: undefined }))
  await until('they are gone', () => left === 10)
  t.ok(most <= 200, `${most} at once`)
  t.same(other.prepare('SELECT MIN(settled_at) = MAX(settled_at) AS newest FROM tasks').all(), [{ newest: 1 }])
})

test('what a task reports, returns or throws need not be JSON, nor readable', { skip: noSqlite }, async t => {
  const odd = defineTask('odd', async (what: string, ctx: TaskContext): Promise<unknown> => {
    ctx.progress(1)
    ctx.progress(2n)
    ctx.progress(undefined)
    ctx.progress(3)
    if (what === 'result') return 2n
    if (what === 'string') throw 'a string' // eslint-disable-line no-throw-literal -- what is no error is what is tested
    throw Object.defineProperty(new Error(), 'message', { get () { throw new Error('no') } })
  })
  const { app, log } = await createApp(t, { file: newFile(t) }, { tasks: [odd] })
  let handle!: TaskHandle
  app.get<{ Params: { what: string } }>('/:what', async request => {
    handle = request.backgroundTasks.add(odd, request.params.what)
    return 'x'
  })
  const end = async (what: string) => {
    await app.inject(`/${what}`)
    await handle.settled()
    return app.backgroundTasks.find(handle.id)
  }
  t.match(await end('result'), { state: 'completed', result: undefined, progress: 3 })
  t.match(await end('string'), { state: 'failed', error: { message: "'a string'" } })
  t.match(await end('getter'), { state: 'failed', error: { message: 'an error that cannot be read' } })
  const requests = (what: string) => log.filter(({ msg }) => msg.endsWith(`${what} of a background task could not be stored`)).map(({ reqId }) => reqId)
  t.same(requests('result'), ['req-1'])
  t.same(requests('progress'), ['req-1', 'req-2', 'req-3'])
})

test('a file that cannot be read or written for a while: it is logged, and what was to be done is done', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend, log } = await open(t, { file, lockDuration: 150, pollInterval: 20 })
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const gate = signal()
  const seen: string[] = []
  await work(backend, 2, async ({ task: { id }, progress }) => {
    seen.push(id)
    if (id === running.id) await gate.promise
    progress(1)
    return { state: 'completed', result: 5 }
  })
  const running = stored()
  await backend.store([[running]])
  await until('it runs', () => seen.length === 1)
  other.exec('ALTER TABLE tasks RENAME TO elsewhere')
  await t.rejects(backend.store([[stored()]]), /no such table/)
  await t.rejects(backend.find(running.id), /no such table/)
  gate.resolve()
  await until('its progress is not written', () => log.find(({ msg }) => msg.endsWith('progress of a background task could not be stored')))
  await until('nor its end', () => log.find(({ msg }) => msg.endsWith('the file could not be read or written')))
  await sleep(300)
  t.equal(log.filter(({ msg }) => msg.endsWith('the file could not be read or written')).length, 1, 'once')
  other.exec('ALTER TABLE elsewhere RENAME TO tasks')
  const next = stored()
  await backend.store([[next]])
  for (const { id } of [running, next]) await until('its end', async () => (await backend.find(id))?.state === 'completed')
  t.same(seen, [running.id, next.id])
})

test('a backend serves one application after the other', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  await backend.close(100)
  await backend.start({} as FastifyBaseLogger, () => ({} as FastifyBaseLogger), 5_000, new Map())
  const task = stored()
  t.same(await backend.store([[task]]), [[task.id]])
  t.match(await backend.find(task.id), { state: 'pending' })
})

test('close does not wait for ever, and nothing is done after it', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file, busyTimeout: 60_000 })
  const gate = signal()
  const deliveries: Delivery[] = []
  const deliver: Deliver = async delivery => {
    deliveries.push(delivery)
    await gate.promise
    return { state: 'completed', result: 5 }
  }
  await work(backend, 1, deliver)
  const endless = stored()
  await backend.store([[endless]])
  await until('it runs', () => deliveries.length === 1)
  await backend.pause()
  await backend.store([[stored()]])
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  const waiting = backend.store([[stored()]])
  waiting.catch(() => {})
  await backend.close(50)
  await t.rejects(waiting, /closed while another process held it/)
  await backend.close(50)
  other.exec('COMMIT')
  await t.rejects(backend.store([[stored()]]), /has been closed/)
  await t.rejects(backend.find(endless.id), /has been closed/)
  gate.resolve()
  await sleep(20)
  t.equal(deliveries.length, 1)
  t.match(other.prepare('SELECT state, result FROM tasks WHERE id = ?').get(endless.id), { state: 'running', result: null }, 'left to another worker')
})

test('a running task that has ended cannot be cancelled any more', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file })
  const gate = signal()
  let ended = false
  await work(backend, 1, async () => {
    await gate.promise
    ended = true
    return { state: 'completed', result: undefined }
  })
  const task = stored()
  await backend.store([[task]])
  await until('it runs', async () => (await backend.find(task.id))?.state === 'running')
  t.equal(await backend.cancel(stored().id), false)
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  gate.resolve()
  await until('it has ended', () => ended)
  const cancelled = backend.cancel(task.id)
  other.exec('COMMIT')
  t.equal(await cancelled, false)
  await until('that is written down', async () => (await backend.find(task.id))?.state === 'completed')
})

test('a worker that is paused while another process holds the file takes nothing', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file })
  const task = stored()
  await backend.store([[task]])
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  let ran = 0
  await work(backend, 1, async () => {
    ran++
    return { state: 'completed', result: undefined }
  })
  await sleep(20)
  await backend.pause()
  other.exec('COMMIT')
  // Written after what the worker has waited for.
  await backend.store([[stored()]])
  t.match(await backend.find(task.id), { state: 'pending' })
  t.equal(ran, 0)
})

/** A connection to a file, whose transactions hold the thread for 20 ms each, and after how many of these it rests. */
async function resting (t: Test, file = newFile(t)) {
  const connection = await Connection.open('SQLite', file, NEVER_MS)
  let turns = 0
  let immediate: NodeJS.Immediate
  const turn = () => {
    turns++
    immediate = setImmediate(turn)
  }
  turn()
  t.teardown(() => {
    clearImmediate(immediate)
    connection.close()
  })
  /** @param meanwhile what happens during each transaction */
  const rests = async (transactions: number, meanwhile = () => {}) => {
    let rests = 0
    for (let i = 0; i < transactions; i++) {
      let before = 0
      await connection.write(() => {
        block(20)
        meanwhile()
        before = turns
      })
      // An event loop that has nothing to do turns a thousand times in a rest of 5 ms.
      if (await connection.write(() => turns - before) > 3) rests++
    }
    return rests
  }
  return { connection, rests, turns: () => turns }
}

test('a process that is idle rests only each 200 ms, for others that wait for the file', { skip: noSqlite }, async t => {
  const { rests } = await resting(t)
  // The event loop has other events now and then, such as those of the runner of the tests; and other programs take its time.
  await until('a rest after some transactions, but not after most', async () => {
    const count = await rests(80)
    return count >= 5 && count < 40
  })
})

test('after a transaction in which something has come for others, the thread is for them as long as it was held', { skip: noSqlite }, async t => {
  const server = createServer(socket => socket.resume()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  await once(client, 'connect')
  t.teardown(() => {
    client.destroy()
    server.close()
  })
  const { rests } = await resting(t)
  // On a busy machine a rest can be over before the event loop has turned.
  t.ok(await rests(20, () => client.write('x')) > 15)
})

test('once another process has written to the file, it is for others, too, as long as it was held', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { connection, rests, turns } = await resting(t, file)
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  const written = connection.write(() => {})
  const before = turns()
  await until('it was refused', () => turns() > before + 3)
  other.exec('COMMIT')
  await written
  t.ok(await rests(20) > 15)
})

test('a batch that cannot be stored is refused alone, and whole', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file })
  const bad = stored()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec(`CREATE TRIGGER refuse BEFORE INSERT ON tasks WHEN new.id = '${bad.id}' BEGIN SELECT RAISE(ABORT, 'too big'); END`)
  const [first, with1, last] = [stored(), stored(), stored()]
  t.match(await backend.store([[first], [with1, bad], [last]]), [[first.id], Error('too big'), [last.id]])
  t.equal(await backend.find(with1.id), null)
  await t.rejects(backend.store([[bad]]), /too big/)
})

test('a large batch is refused whole, for a task in it or after busyTimeout, and what follows is stored', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file, busyTimeout: 400 })
  const batch = Array.from({ length: 1_001 }, () => stored())
  const bad = stored()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec(`CREATE TRIGGER refuse BEFORE INSERT ON tasks WHEN new.id = '${bad.id}' BEGIN SELECT RAISE(ABORT, 'too big'); END`)
  await t.rejects(backend.store([[...batch, bad]]), /too big/)
  other.exec('BEGIN IMMEDIATE')
  await t.rejects(backend.store([batch]), { message: 'another process has held the file for 400 ms' })
  other.exec('COMMIT')
  t.equal(await backend.find(batch[0]!.id), null)
  t.same(await backend.store([batch]), [batch.map(({ id }) => id)])
})

test('a batch that waits behind another one, and then for the file, is answered within the default storeTimeout', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { app } = await createApp(t, { file }, { worker: false })
  app.get('/', async request => request.backgroundTasks.add(task, 1).id)
  await app.ready()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  other.exec('BEGIN IMMEDIATE')
  const first = app.inject('/')
  await sleep(100)
  for (const answer of await Promise.all([first, app.inject('/')])) t.match(answer.json(), { message: /another process has held the file for 2000 ms/ })
})

test('a clock that is set back keeps no task that was due from running', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file })
  const seen: string[] = []
  const late = stored({ delay: 60_000 })
  const tasks = [stored(), stored(), late]
  const now = Date.now
  t.teardown(() => { Date.now = now })
  Date.now = () => now() + 3_600_000
  await backend.store([tasks])
  Date.now = now
  const list = await backend.list!(10)
  t.match(list.counts, { waiting: 2, delayed: 1 })
  t.ok(list.tasks[0]!.since! > now(), 'since when it waits is known')
  const delayed = stored({ delay: 1 })
  const due = now()
  await backend.store([[delayed]])
  const since = await until('it is due', async () => (await backend.list!(10)).tasks.find(({ id, state }) => id === delayed.id && state === 'waiting')?.since)
  t.ok(since! > due && since! <= now())
  await work(backend, 1, async ({ task: { id } }) => {
    seen.push(id)
    return { state: 'completed', result: undefined }
  })
  await until('all', () => seen.length === 3)
  t.same(seen.sort(), [...tasks.slice(0, 2), delayed].map(({ id }) => id))
})

test('a task that has waited for its time is not passed by those that come later', { skip: noSqlite }, async t => {
  const { backend } = await open(t, { file: newFile(t) })
  const seen: string[] = []
  const gate = signal()
  const [first, delayed, later] = [stored(), stored({ delay: 20 }), stored()]
  await work(backend, 1, async ({ task: { id } }) => {
    seen.push(id)
    if (id === first.id) await gate.promise
    return { state: 'completed', result: undefined }
  })
  await backend.store([[first, delayed]])
  await sleep(50)
  await backend.store([[later]])
  gate.resolve()
  await until('all', () => seen.length === 3)
  t.same(seen, [first, delayed, later].map(({ id }) => id))
})

test('times need not be whole numbers', { skip: noSqlite }, async t => {
  const { backend, log } = await open(t, { file: newFile(t), lockDuration: 60.5, pollInterval: 10.5, busyTimeout: 500.5 })
  const attempts: number[] = []
  const task = stored({ delay: 1.5, attempts: 3, backoff: { type: 'fixed', delay: 1.5, jitter: 0, maxDelay: 1_000 } as never })
  await backend.store([[task]])
  await work(backend, 1, async ({ attempt }) => {
    attempts.push(attempt)
    await sleep(100)
    if (attempts.length === 1) return { state: 'not attempted', reason: new Error('busy'), delay: 0.5 }
    return attempts.length === 2 ? { state: 'failed', error: new Error('once') } : { state: 'completed', result: undefined }
  })
  await until('its end', async () => (await backend.find(task.id))?.state === 'completed')
  t.same(attempts, [1, 1, 2])
  t.equal(await backend.retry!(task.id), false, 'it has not failed')
  t.same(log, [])
})

test('a renewal that has failed is tried again long before the lease ends', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file, lockDuration: 9_000, busyTimeout: 50 })
  const gate = signal()
  const task = stored()
  await work(backend, 1, async () => {
    await gate.promise
    return { state: 'completed', result: undefined }
  })
  await backend.store([[task]])
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const lease = () => other.prepare('SELECT lease_until FROM tasks').get()!.lease_until as number
  await until('it runs', async () => (await backend.find(task.id))?.state === 'running')
  const first = lease()
  other.exec('BEGIN IMMEDIATE')
  // The first renewal comes after three seconds.
  await sleep(3_300)
  other.exec('COMMIT')
  t.equal(lease(), first)
  await sleep(1_200)
  t.ok(lease() > first)
  gate.resolve()
})

test('a task that is handed out while it is being cancelled is told to stop', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const { backend } = await open(t, { file })
  const task = stored()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  await backend.store([[task]])
  other.exec('BEGIN IMMEDIATE')
  let stopped = false
  await work(backend, 1, async ({ signal }) => {
    if (!signal.aborted) await once(signal, 'abort')
    stopped = true
    return { state: 'cancelled' }
  })
  // The worker waits for the file already.
  await sleep(30)
  const cancelled = backend.cancel(task.id)
  other.exec('COMMIT')
  t.equal(await cancelled, true)
  await until('it has stopped', () => stopped)
})
