import { Job, Queue, Worker } from 'bullmq'
import Redis, { Cluster } from 'ioredis'
import Module from 'node:module'
import { randomBytes, randomUUID } from 'node:crypto'
import { Client, Pool } from 'pg'
import { test, type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import { defineTask, type TaskContext, type TaskHandle } from '../../index'
import { bullmq, type BullmqOptions } from '../../lib/backends/bullmq'
import { TaskPool } from '../../lib/backends/bullmq/postgres/pool'
import { ends, until } from '../support/until'
import { freePort, noOwnPostgres, noOwnRedis, noPostgres, noRedis, ownPostgres, ownRedis, postgres, redis } from '../support/services'
import { createApp as createPlainApp, signal } from '../support/server'

// Matters of BullMQ alone: connections, packages, servers that are away.

const task = defineTask('task', async (payload: unknown, ctx: TaskContext) => {
  ctx.progress(1)
  return payload
})

async function createApp (t: Test, options: BullmqOptions, more = {}, fastifyOptions = {}) {
  return createPlainApp(t, { tasks: [task], backend: bullmq({ queue: `bullmq-${randomUUID()}`, ...options }), storeTimeout: 2_000, closeTimeout: 500, ...more }, fastifyOptions)
}

async function works (t: Test, options: BullmqOptions): Promise<void> {
  const { app } = await createApp(t, options, { storeTimeout: 5_000 })
  await app.ready()
  const handles = [1, 2].map(n => app.backgroundTasks.add(task, n))
  for (const handle of handles) t.equal(await handle.settled(), 'completed')
  await app.close()
}

test('options are checked', async t => {
  const connection = 'redis://localhost'
  t.throws(() => bullmq({ connection, que: 'x' } as never), { code: 'FST_BGT_UNKNOWN_OPTION', message: /'que'; the options are connection, prefix, queue/ })
  for (const wrong of [{ prefix: 5 }, { queue: '' }, { queue: 'ä'.repeat(128) }, { lockDuration: '1s' }, { lockDuration: 0 }, { stalledInterval: 0.5 }, { maxCrashes: -1 }, { retain: null }]) {
    t.throws(() => bullmq({ connection, ...wrong } as never), { code: 'FST_BGT_INVALID_OPTION' }, JSON.stringify(wrong))
  }
  t.throws(() => bullmq(undefined as never), { code: 'FST_BGT_INVALID_OPTION', message: /connection/ })
})

test('a connection is an URL, options, or a client', async t => {
  for (const connection of ['mysql://localhost', '', 5, null, new URL('redis://localhost')]) {
    t.throws(() => bullmq({ connection: connection as never }), { code: 'FST_BGT_INVALID_OPTION' }, String(connection))
  }
  t.equal(bullmq({ connection: 'rediss://localhost' }).name, 'BullMQ on Redis')
  t.equal(bullmq({ connection: { host: 'localhost' } }).name, 'BullMQ on Redis')
  t.equal(bullmq({ connection: 'postgresql://localhost' }).name, 'BullMQ on Postgres')
  t.equal(bullmq({ connection: { database: 'x' } }).name, 'BullMQ on Postgres')
  t.equal(bullmq({ connection: { connectionString: 'x' } }).name, 'BullMQ on Postgres')
})

test('a missing package is named with the command that installs it', async t => {
  const loader = Module as unknown as { _load (name: string, ...args: unknown[]): unknown }
  const load = loader._load
  let code = 'MODULE_NOT_FOUND'
  t.teardown(() => { loader._load = load })
  loader._load = function (name, ...args) {
    if (name === 'ioredis' || name === 'pg') throw Object.assign(new Error(`no ${name}`), { code })
    return load.call(this, name, ...args)
  }
  for (const [connection, packages] of [['redis://localhost', 'bullmq ioredis'], ['postgres://localhost', 'bullmq pg']] as const) {
    const { app } = await createApp(t, { connection })
    await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_MISSING_PACKAGE', message: new RegExp(`npm install ${packages}`) })
  }
  code = ''
  const { app } = await createApp(t, { connection: 'redis://localhost' })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /no ioredis/ })
})

test('no server at the start: a clear failure, and nothing is left open', async t => {
  for (const scheme of ['redis', 'postgres']) {
    const { app } = await createApp(t, { connection: `${scheme}://127.0.0.1:${await freePort()}` })
    await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED' })
  }
})

test('connections to Redis', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const { hostname: host, port } = new URL(url)
  await works(t, { connection: url, prefix: 'other', retain: { completed: { age: 10, count: 10 } } })
  await works(t, { connection: { host, port: Number(port) } })
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  await works(t, { connection: client })
  t.equal(await client.ping(), 'PONG', 'a ready client stays open')
})

test('what a turn stores goes to Redis in a few writes', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const { app } = await createApp(t, { connection: client }, { worker: false })
  await app.ready()
  const stream = client.stream as unknown as { _writeGeneric (...args: unknown[]): void }
  const write = stream._writeGeneric.bind(stream)
  let writes = 0
  stream._writeGeneric = (...args) => {
    writes++
    write(...args)
  }
  for (let n = 0; n < 50; n++) app.backgroundTasks.add(task, n)
  await app.backgroundTasks.flush()
  t.ok(writes <= 7, `${writes} writes`)
})

test('a ready cluster of Redis', { skip: noOwnRedis }, async t => {
  const { port } = await ownRedis(t, ['--cluster-enabled', 'yes', '--cluster-announce-ip', '127.0.0.1', '--cluster-port', String(await freePort())])
  const node = new Redis(port)
  t.teardown(() => node.disconnect())
  await node.cluster('ADDSLOTS', ...Array.from({ length: 16_384 }, (_, slot) => slot))
  await until('its slots', async () => (await node.cluster('INFO')).includes('cluster_state:ok'))
  const cluster = new Cluster([{ host: '127.0.0.1', port }])
  t.teardown(() => cluster.disconnect())
  t.throws(() => bullmq({ connection: cluster, prefix: 'other' }), { code: 'FST_BGT_INVALID_OPTION', message: /'prefix' must be one with a part in braces/ })
  await works(t, { connection: cluster, prefix: '{other}' })
  await works(t, { connection: cluster, queue: '{other}' })
  t.equal(await cluster.ping(), 'PONG', 'it stays open')
})

test('connections to Postgres', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  await works(t, { connection: { connectionString: url }, prefix: 'other' })
  const pool = new Pool({ connectionString: url, options: '-c search_path=bullmq' })
  await works(t, { connection: pool })
  t.equal((await pool.query('SELECT 1 AS one')).rows[0].one, 1, 'a ready pool stays open')
  await pool.end()
})

test('a ready pool may lead to any schema', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const schema = `pool_${randomUUID().replaceAll('-', '_')}`
  const pool = new Pool({ connectionString: url, options: `-c search_path=${schema}` })
  t.teardown(async () => {
    await pool.query(`DROP SCHEMA ${schema} CASCADE`)
    await pool.end()
  })
  await works(t, { connection: pool, prefix: schema })
  t.not((await pool.query('SELECT FROM job')).rowCount, 0)
  const { app } = await createApp(t, { connection: pool })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /search path has no schema 'bullmq'/ }, 'but it has to lead to the one that is named')
})

test('a pool of one connection is enough: a worker listens with another one', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  await works(t, { connection: { connectionString: url, max: 1 } })
})

test('a user of Redis who may not do what is needed is refused at the start', { skip: noOwnRedis }, async t => {
  const { url, port } = await ownRedis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  await client.acl('SETUSER', 'limited', 'on', '>password', '~*', '&*', '+@all', '-evalsha', '-eval')
  const { app } = await createApp(t, { connection: { host: '127.0.0.1', port, username: 'limited', password: 'password' } })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /NOPERM/ })
})

test('a failed task that somebody else runs again, or removes, just then', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const options = { connection: url, queue: `again-${randomUUID()}` }
  const backend = bullmq(options)
  const fails = defineTask('fails', async () => { throw new Error('no') })
  const { app } = await createApp(t, options, { tasks: [fails], backend })
  await app.ready()
  const { retry } = Job.prototype
  t.teardown(() => { Job.prototype.retry = retry })
  for (const dedupe of [undefined, 'one']) {
    const handle = app.backgroundTasks.add(dedupe === undefined ? {} : { dedupe }, fails)
    t.equal(await handle.settled(), 'failed')
    Job.prototype.retry = async () => { throw Object.assign(new Error('not in the failed state'), { code: -3 }) }
    t.equal(await backend.retry!(handle.id), false)
    t.equal(await client.exists(`bull:${options.queue}:de:one`), 0, 'its dedupe id is free')
    Job.prototype.retry = async () => { throw new Error('read ECONNRESET') }
    await t.rejects(backend.retry!(handle.id), { message: 'read ECONNRESET' }, 'a server that does not answer is told')
  }
  t.ok(await client.pttl(`bull:${options.queue}:de:one`) > 0, 'and is free after a time at the latest')
})

test('Postgres: a failed task runs again where BullMQ has other names for what that needs', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const prototype = TaskPool.prototype as unknown as { query (text: string, values: unknown[]): Promise<unknown> }
  const { query } = prototype
  t.teardown(() => { prototype.query = query })
  let refused = 0
  prototype.query = function (text, values) {
    if (typeof text !== 'string' || !text.includes('INSERT INTO dedup (')) return query.call(this, text, values)
    refused++
    return Promise.reject(Object.assign(new Error('refused'), { code: '42883' }))
  }
  const options = { connection: url, queue: `again-${randomUUID()}` }
  const backend = bullmq(options)
  let runs = 0
  const flaky = defineTask('flaky', async () => { if (++runs === 1) throw new Error('once') })
  const { app } = await createApp(t, options, { tasks: [flaky], backend })
  await app.ready()
  const handle = app.backgroundTasks.add(flaky)
  t.equal(await handle.settled(), 'failed')
  t.equal(await backend.retry!(handle.id), true)
  t.equal(refused, 1)
  await until('it has run', async () => (await app.backgroundTasks.find(handle.id))?.state === 'completed')
})

test('a server that goes away and does not come back: logged once, and close is bounded', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const { app, log } = await createApp(t, { connection: server.url })
  app.get('/', async request => request.backgroundTasks.add(task, 1).id)
  const id = (await app.inject('/')).body
  await until('it has run', async () => (await app.backgroundTasks.find(id))?.state === 'completed')
  await server.stop('SIGKILL')
  t.equal((await app.inject('/')).statusCode, 503)
  await t.rejects(app.backgroundTasks.find(id))
  await until('logged', () => log.some(({ msg }) => msg.endsWith('is in trouble')))
  await ends('the close', app.close())
})

test('what a server that has gone away had cannot be listed', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const backend = bullmq({ connection: server.url })
  const { app } = await createPlainApp(t, { tasks: [task], backend, worker: false })
  await app.ready()
  t.match(await backend.list!(10), { tasks: [] })
  await server.stop('SIGKILL')
  await t.rejects(backend.list!(10))
})

const connections = () => process.getActiveResourcesInfo().filter(name => name === 'TCPSocketWrap').length

test('a Postgres that is there, but does not answer: start and close are bounded, and no connection is left', { skip: noOwnPostgres }, async t => {
  const server = await ownPostgres(t)
  const client = new Client({ connectionString: server.url })
  t.teardown(() => client.end())
  await client.connect()
  const open = connections()
  const { app } = await createApp(t, { connection: server.url }, { storeTimeout: 5_000 })
  await app.ready()
  await app.backgroundTasks.add(task, 1).settled()
  const { rows } = await client.query('SELECT pid FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()')
  t.ok(rows.length > 1)
  const pids = [server.pid, ...rows.map(({ pid }) => pid as number)]
  t.teardown(() => { for (const pid of pids) process.kill(pid, 'SIGCONT') })
  for (const pid of pids) process.kill(pid, 'SIGSTOP')
  await app.close()
  await until('it has let go', () => connections() === open)
  const { app: late } = await createApp(t, { connection: server.url })
  await t.rejects(async () => { await late.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /no answer within 2000 ms/ })
  await late.close()
  await until('it has let go', () => connections() === open)
})

test('a worker that went away takes its task down with it, as often as `maxCrashes` allows', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `crashes-${randomUUID()}`
  const started = signal()
  // As one that was killed: it has the task and gives no sign of life.
  const dead = new Worker(queue, () => new Promise(() => { started.resolve() }), {
    connection: { url, maxRetriesPerRequest: null }, lockDuration: 100, skipLockRenewal: true, skipStalledCheck: true
  })
  t.teardown(() => dead.close(true))
  const options = { connection: url, queue, lockDuration: 60_000, stalledInterval: 100, maxCrashes: 0 }
  const { app: web } = await createApp(t, options, { worker: false })
  await web.ready()
  const handle = web.backgroundTasks.add(task, 1)
  await started.promise
  const { app, log } = await createApp(t, options)
  await app.ready()
  t.equal(await handle.settled(), 'failed')
  await until('logged', () => log.some(({ msg }) => msg === 'background task failed: too many workers went away with it'))
  t.match(log.find(({ level }) => level === 50), { task: { id: handle.id, name: 'task' } })
  await runsAgain(t, web, options, handle.id)
})

/** A task that has failed for the workers that went away with it is run again, and they are forgotten. */
async function runsAgain (t: Test, web: FastifyInstance, options: BullmqOptions, id: string): Promise<void> {
  const backend = bullmq(options)
  const { app } = await createApp(t, options, { backend })
  await app.ready()
  t.equal(await backend.retry!(id), true)
  t.match(await until('it has run', async () => {
    const info = await web.backgroundTasks.find(id)
    return info !== null && ['completed', 'failed'].includes(info.state) && info
  }), { state: 'completed', result: 1, attempts: 1 })
}

test('Postgres: a task that too many workers went away with runs again when it is told to', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `crashes-${randomUUID()}`
  const options = { connection: url, queue, lockDuration: 60_000, stalledInterval: 100, maxCrashes: 0 }
  const { app: web } = await createApp(t, options, { worker: false })
  await web.ready()
  const { id } = web.backgroundTasks.add(task, 1)
  await web.backgroundTasks.flush()
  const client = new Client({ connectionString: url, options: '-c search_path=bullmq' })
  t.teardown(() => client.end())
  await client.connect()
  await client.query("SELECT FROM move_to_active($1, 'dead', 100, $2, 'dead', NULL, NULL)", [queue, Date.now()])
  const { app } = await createApp(t, options)
  await app.ready()
  await until('it has failed', async () => (await web.backgroundTasks.find(id))?.state === 'failed')
  await runsAgain(t, web, options, id)
})

test('a worker whose thread is held for too long: what is logged is about the task, and not about the connection', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  let runs = 0
  const holds = defineTask('holds', async () => {
    if (++runs > 1) return
    const end = Date.now() + 600
    while (Date.now() < end);
  })
  const { app, log } = await createApp(t, { connection: url, lockDuration: 100, stalledInterval: 50 }, { tasks: [holds] })
  let handle!: TaskHandle
  app.get('/', async request => {
    handle = request.backgroundTasks.add({ name: 'its label' }, holds)
    return handle.id
  })
  await app.inject('/')
  await until('it is run again', () => runs === 2)
  const lines = await until('it is logged', () => {
    const lines = log.filter(({ msg }) => msg.includes('this worker gave no sign of life'))
    return lines.length !== 0 && lines
  })
  t.match(lines, [{ level: 40, reqId: 'req-1', task: { id: handle.id, name: 'its label' } }])
  t.same(log.filter(({ msg }) => msg.endsWith('is in trouble')), [])
})

test('what the server refuses is not stored: neither one task nor two', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const queue = `wrong-${randomUUID()}`
  const { app } = await createApp(t, { connection: url, queue }, { worker: false })
  app.get<{ Params: { count: string } }>('/:count', async request => {
    for (let i = 0; i < Number(request.params.count); i++) request.backgroundTasks.add(task, i)
    return 'x'
  })
  await app.ready()
  // Where the queue keeps a list there is something else.
  await client.set(`bull:${queue}:wait`, 'x')
  for (const count of [1, 2]) {
    const response = await app.inject(`/${count}`)
    t.equal(response.statusCode, 503)
    t.match(response.json(), { code: 'FST_BGT_STORE_FAILED', message: /WRONGTYPE/ })
  }
})

test('what Redis refuses of one request is refused alone, and what it has done of it is taken out again', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `part-${randomUUID()}`
  const { app } = await createApp(t, { connection: url, queue }, { worker: false })
  const redisClient = new Redis(url)
  const client = new Queue(queue, { connection: { url } })
  t.teardown(async () => {
    redisClient.disconnect()
    await client.close()
  })
  const ids: Record<string, string> = {}
  app.get<{ Params: { dedupe: string } }>('/:dedupe', async request => {
    const { dedupe } = request.params
    ids[dedupe] = request.backgroundTasks.add(task, 1).id
    request.backgroundTasks.add({ dedupe }, task, 1)
    return 'x'
  })
  await app.ready()
  // Where the queue keeps who has this dedupe id there is something else.
  await redisClient.lpush(`bull:${queue}:de:wrong`, 'x')
  const responses = await Promise.all(['one', 'wrong', 'two'].map(dedupe => app.inject(`/${dedupe}`)))
  t.same(responses.map(({ statusCode }) => statusCode), [200, 503, 200])
  t.match(responses[1]!.json(), { code: 'FST_BGT_STORE_FAILED', message: /WRONGTYPE/ })
  await until('it is taken out', async () => await client.getJob(ids.wrong as string) === undefined)
  t.equal(await client.getWaitingCount(), 4)
})

test('tasks of one request that are stored by different scripts of BullMQ', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `scripts-${randomUUID()}`
  const { app } = await createApp(t, { connection: url, queue }, { worker: false })
  const client = new Queue(queue, { connection: { url } })
  t.teardown(() => client.close())
  app.get('/', async request => {
    for (let n = 0; n < 150; n++) request.backgroundTasks.add({ delay: n % 3 === 0 ? 60_000 : 0 }, task, n)
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.match(await client.getJobCounts('waiting', 'delayed'), { waiting: 100, delayed: 50 })
})

test('a client that gathers commands by itself', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url, { enableAutoPipelining: true })
  t.teardown(() => client.disconnect())
  for (const connection of [client, { host: client.options.host, port: client.options.port, enableAutoPipelining: true }]) {
    const queue = `pipelines-${randomUUID()}`
    const { app } = await createApp(t, { connection, queue }, { worker: false })
    app.get('/', async request => {
      for (const delay of [0, 60_000, 0]) request.backgroundTasks.add({ delay }, task, 1)
      return client.get('something')
    })
    await app.ready()
    for (let round = 0; round < 3; round++) {
      const responses = await Promise.all(Array.from({ length: 10 }, () => app.inject('/')))
      t.same(responses.map(({ statusCode }) => statusCode), Array(10).fill(200))
    }
    t.equal(await client.llen(`bull:${queue}:wait`), 60)
    t.equal(await client.zcard(`bull:${queue}:delayed`), 30)
  }
})

test('a client is asked whether to connect anew where Redis refuses all that is written together', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const asked: string[] = []
  const client = new Redis(url, {
    reconnectOnError (error) {
      asked.push(error.message)
      return false
    }
  })
  t.teardown(() => client.disconnect())
  const queue = `refused-${randomUUID()}`
  const { app } = await createApp(t, { connection: client, queue }, { worker: false })
  app.get('/', async request => request.backgroundTasks.add(task, 1).id)
  await app.ready()
  await client.set(`bull:${queue}:wait`, 'x')
  const responses = await Promise.all([1, 2, 3].map(() => app.inject('/')))
  t.same(responses.map(({ statusCode }) => statusCode), [503, 503, 503])
  t.match(asked, [/WRONGTYPE/])
})

test('the worker keeps so many settled tasks as it was told, whoever has added them', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `kept-${randomUUID()}`
  const client = new Queue(queue, { connection: { url } })
  t.teardown(() => client.close())
  const fails = defineTask('fails', async () => { throw new Error('no') })
  const { app: web } = await createApp(t, { connection: url, queue }, { tasks: [task, fails], worker: false })
  await web.ready()
  for (let n = 0; n < 10; n++) {
    web.backgroundTasks.add(task, n)
    web.backgroundTasks.add(fails)
  }
  await web.backgroundTasks.flush()
  const { app } = await createApp(t, { connection: url, queue, retain: { completed: { age: 1_000, count: 3 }, failed: { age: 1_000, count: 2 } } }, { tasks: [task, fails] })
  await app.ready()
  await until('they are settled', async () => await client.getWaitingCount() + await client.getActiveCount() === 0)
  t.match(await client.getJobCounts('completed', 'failed'), { completed: 3, failed: 2 })
})

test('Postgres: what it cannot keep of one request is refused, and no other', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const client = new Client({ connectionString: url })
  t.teardown(() => client.end())
  await client.connect()
  const queue = `refuses-${randomUUID()}`
  const { app } = await createApp(t, { connection: url, queue }, { worker: false })
  app.get<{ Params: { code: string }, Querystring: { dedupe?: string } }>('/:code', async request => {
    const { dedupe } = request.query
    request.backgroundTasks.add({ name: `code ${request.params.code}`, ...dedupe === undefined ? {} : { dedupe } }, task, 1)
    return 'x'
  })
  await app.ready()
  await client.query(`
    CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.data ->> 'label' <> 'code 0' THEN RAISE EXCEPTION 'refused' USING ERRCODE = substr(NEW.data ->> 'label', 6); END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON bullmq.job FOR EACH ROW WHEN (NEW.queue = '${queue}') EXECUTE FUNCTION public.refuse()`)
  t.teardown(() => client.query('DROP TRIGGER refuse ON bullmq.job'))
  for (const code of ['22003', '23514', '54000', '53200', 'XX000']) {
    const codes = ['0', '0', '0', code, '0', '0', code]
    const plain = codes.map(code => app.inject(`/${code}`))
    const keyed = codes.map(code => app.inject(`/${code}?dedupe=${randomUUID()}`))
    const statuses = (await Promise.all([...plain, ...keyed])).map(({ statusCode }) => statusCode)
    t.same(statuses, [...codes, ...codes].map(code => code === '0' ? 200 : 503), code)
  }
})

test('Redis keeps every character of a result, and of an error what is no half of one', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const odd = defineTask('odd', async () => ['a\0b', 'a\ud83db'])
  const fails = defineTask('fails', async () => { throw new Error('a\0b') })
  const { app } = await createApp(t, { connection: url }, { tasks: [odd, fails] })
  await app.ready()
  const [returned, thrown] = [app.backgroundTasks.add(odd), app.backgroundTasks.add(fails)]
  const ids = [returned.id, thrown.id] as const
  await Promise.all([returned.settled(), thrown.settled()])
  t.same((await app.backgroundTasks.find(ids[0]))?.result, ['a\0b', 'a\ud83db'])
  t.match((await app.backgroundTasks.find(ids[1]))?.error, { message: 'a\0b', stack: /a\0b/ })
})

test('Postgres: a task has completed although what it returns is refused', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  let runs = 0
  const nested = defineTask('nested', async () => {
    runs++
    let value: unknown[] = []
    for (let n = 0; n < 4_000; n++) value = [value]
    return value
  })
  const client = new Client({ connectionString: url })
  t.teardown(() => client.end())
  await client.connect()
  await client.query("ALTER SYSTEM SET max_stack_depth = '100kB'")
  await client.query('SELECT pg_reload_conf()')
  t.teardown(() => client.query('ALTER SYSTEM RESET max_stack_depth').then(() => client.query('SELECT pg_reload_conf()')))
  const { app, log } = await createApp(t, { connection: url }, { tasks: [nested, task] })
  await app.ready()
  const handle = app.backgroundTasks.add(nested)
  t.equal(await handle.settled(), 'completed')
  t.match(await app.backgroundTasks.find(handle.id), { result: undefined, attempts: 1 })
  t.equal(await app.backgroundTasks.add(task, 1).settled(), 'completed', 'the worker goes on')
  t.equal(runs, 1)
  t.match(log.filter(({ msg }) => msg.endsWith('the result of a background task could not be stored')), [{ level: 40, err: { code: '54001' }, task: { id: handle.id } }])
})

test('a line that looks like the code of an error, and is none', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const fails = defineTask('fails', async () => { throw Object.assign(new Error('x'), { stack: 'x\n    code: none' }) })
  const { app } = await createApp(t, { connection: url }, { tasks: [fails] })
  await app.ready()
  const handle = app.backgroundTasks.add(fails)
  t.equal(await handle.settled(), 'failed')
  t.equal(((await app.backgroundTasks.find(handle.id))?.error as { code?: unknown }).code, undefined)
})

test('Postgres: the longest ids and payloads there may be, all at once', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const { app } = await createApp(t, { connection: url, queue: 'q'.repeat(255) }, { worker: false, storeTimeout: 60_000 })
  app.get<{ Params: { size: string } }>('/:size', async request => {
    // An index compresses values; random ones stay as long as they are.
    const id = () => randomBytes(768).toString('base64')
    request.backgroundTasks.add({ dedupe: id(), name: id() }, task, 'x'.repeat(Number(request.params.size) - 2))
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  await app.ready()
  const responses = await Promise.all([100, 2 ** 24, 100, 2 ** 24].map(size => app.inject(`/${size}`)))
  t.same(responses.map(({ statusCode }) => statusCode), [200, 200, 200, 200])
})

test('a server that goes away while a task ends: what it could not note is no failure of the task', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const options = { connection: url, queue: `away-${randomUUID()}`, lockDuration: 200, stalledInterval: 100 }
  const away = async () => { throw new Error('read ECONNRESET') }
  const { moveToCompleted, moveToDelayed } = Job.prototype
  t.teardown(() => { Object.assign(Job.prototype, { moveToCompleted, moveToDelayed }) })
  Object.assign(Job.prototype, { moveToCompleted: away, moveToDelayed: away })
  let ran = 0
  const count = defineTask('count', async () => { ran++ })
  const unknown = defineTask('unknown', async () => {})
  const { app: web } = await createApp(t, options, { tasks: [count, unknown], worker: false })
  const { app, log } = await createApp(t, options, { tasks: [count] })
  await Promise.all([web.ready(), app.ready()])
  const [completed, left] = [web.backgroundTasks.add(count), web.backgroundTasks.add(unknown)]
  const leftBehind = () => log.filter(({ msg }) => msg.endsWith('left to another worker')).length
  await until('both have been begun', () => ran === 1 && leftBehind() === 1)
  await until('logged', () => log.some(({ msg, err }) => msg.endsWith('is in trouble') && err?.message === 'read ECONNRESET'))
  Object.assign(Job.prototype, { moveToCompleted, moveToDelayed })
  t.equal(await completed.settled(), 'completed')
  t.ok(ran > 1, 'handed out again')
  await until('so is the other one', () => leftBehind() > 1)
  t.match(await until('it waits', async () => {
    const info = await web.backgroundTasks.find(left.id)
    return info?.state !== 'running' && info
  }), { state: 'pending', attempts: 0 })
})

test('a task that a worker has begun while it is cancelled is told to stop', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const begun = signal()
  const endless = defineTask('endless', async (_payload: undefined, { signal }: TaskContext) => {
    begun.resolve()
    await new Promise((_resolve, reject) => { signal.addEventListener('abort', () => reject(signal.reason)) })
  })
  const { app } = await createApp(t, { connection: url }, { tasks: [endless] })
  await app.ready()
  const handle = app.backgroundTasks.add(endless)
  await begun.promise
  const { getState } = Job.prototype
  t.teardown(() => { Job.prototype.getState = getState })
  Job.prototype.getState = async () => 'waiting'
  t.equal(await handle.cancel(), true)
  Job.prototype.getState = getState
  t.equal(await handle.settled(), 'cancelled')
})

test('a task that ends while it is cancelled stays, with its result', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const options = { connection: url, queue: `ends-${randomUUID()}` }
  const { app: web } = await createApp(t, options, { worker: false })
  const { app } = await createApp(t, options)
  await web.ready()
  const handle = web.backgroundTasks.add(task, 1)
  await web.backgroundTasks.flush()
  const { getJob } = Queue.prototype
  t.teardown(() => { Queue.prototype.getJob = getJob })
  Queue.prototype.getJob = async function (id) {
    Queue.prototype.getJob = getJob
    const job = await this.getJob(id)
    await app.ready()
    await until('its end', async () => (await web.backgroundTasks.find(handle.id))?.state === 'completed')
    return job
  }
  t.equal(await handle.cancel(), false)
  t.match(await web.backgroundTasks.find(handle.id), { state: 'completed', result: 1 })
})

test('Postgres: a task that a worker is just taking while it is cancelled is left to it', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `taken-${randomUUID()}`
  const { app: web } = await createApp(t, { connection: url, queue }, { worker: false })
  await web.ready()
  const handle = web.backgroundTasks.add(task, 1)
  await web.backgroundTasks.flush()
  // BullMQ's statement for a worker that takes a task, not committed yet.
  const taking = new Client({ connectionString: url, options: '-c search_path=bullmq' })
  t.teardown(() => taking.end())
  await taking.connect()
  await taking.query('BEGIN')
  const { rows } = await taking.query("SELECT id FROM move_to_active($1, 'token', 30000, $2, 'worker', NULL, NULL)", [queue, Date.now()])
  t.same(rows, [{ id: handle.id }])
  const cancelled = handle.cancel()
  const { rows: [{ pid }] } = await taking.query('SELECT pg_backend_pid() AS pid')
  await until('it waits for the worker', async () => {
    const { rows } = await taking.query('SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))', [pid])
    return rows.length === 1
  })
  await taking.query('COMMIT')
  t.equal(await cancelled, false)
  t.match(await web.backgroundTasks.find(handle.id), { state: 'running' })
})

test('Postgres: a task is cancelled where BullMQ has other names for its table and its function', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const backend = TaskPool.prototype as unknown as { query (text: string, values: unknown[]): Promise<unknown> }
  const { query } = backend
  t.teardown(() => { backend.query = query })
  let code: string | null = null
  backend.query = function (text, values) {
    return code !== null && text.includes('FOR UPDATE') ? Promise.reject(Object.assign(new Error('refused'), { code })) : query.call(this, text, values)
  }
  const { app } = await createApp(t, { connection: url }, { worker: false })
  await app.ready()
  const handle = app.backgroundTasks.add(task, 1)
  await app.backgroundTasks.flush()
  code = '57P01'
  await t.rejects(handle.cancel(), { message: /refused/ }, 'any other error is told')
  t.match(await app.backgroundTasks.find(handle.id), { state: 'pending' })
  code = '42883'
  t.equal(await handle.cancel(), true)
  t.equal(await app.backgroundTasks.find(handle.id), null)
})

test('a task that is removed while somebody asks for it', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const backend = bullmq({ connection: url, queue: `removed-${randomUUID()}` })
  const { app } = await createApp(t, { connection: url }, { backend, worker: false })
  await app.ready()
  const [{ id }, other] = [app.backgroundTasks.add(task, 1), app.backgroundTasks.add(task, 2)]
  await app.backgroundTasks.flush()
  t.match(await app.backgroundTasks.find(id), { state: 'pending' })
  const { getState } = Job.prototype
  t.teardown(() => { Job.prototype.getState = getState })
  Job.prototype.getState = async function () {
    await this.remove()
    return getState.call(this)
  }
  t.equal(await app.backgroundTasks.find(id), null)
  t.equal(await backend.read!(other.id), null)
})

test('a server that has lost a task while it runs: what could not be stored is logged', { skip: noOwnRedis }, async t => {
  const { url } = await ownRedis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const forgotten = defineTask('forgotten', async (_payload: undefined, ctx: TaskContext) => {
    await client.flushall()
    ctx.progress(50)
  })
  const { app, log } = await createApp(t, { connection: url }, { tasks: [forgotten] }, { requestIdLogLabel: 'request' })
  app.get('/', async request => ({ id: request.backgroundTasks.add(forgotten).id, request: request.id }))
  const { id, request } = (await app.inject('/')).json<{ id: string, request: string }>()
  await until('logged', () => log.some(({ msg }) => msg.endsWith('the progress of a background task could not be stored')))
  t.match(log.find(({ msg }) => msg.endsWith('could not be stored')), { level: 40, request, task: { id, name: 'forgotten' } })
})
