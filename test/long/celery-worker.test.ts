import { randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import Module from 'node:module'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { connect } from 'amqplib'
import Redis from 'ioredis'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TaskContext } from '../../index'
import { celery, type CeleryOptions } from '../../lib/backends/celery'
import { createApp, turns } from '../support/server'
import { noRabbit, noRedis, ownRabbit, ownRedis } from '../support/services'
import { until } from '../support/until'

// Messages that another worker had, that cannot begin, or that go back.

test('a worker on RabbitMQ', { skip: noRabbit || noRedis }, async t => {
  const [rabbit, redis] = await Promise.all([ownRabbit(t), ownRedis(t)])

  async function channelOf (t: Test) {
    const model = await connect(rabbit.url) as Awaited<ReturnType<typeof import('amqplib')['connect']>>
    t.teardown(() => model.close())
    return model.createChannel()
  }

  async function start (t: Test, tasks: BackgroundTasksOptions['tasks'], options: Partial<CeleryOptions>, more: BackgroundTasksOptions = {}) {
    const { app, log } = await createApp(t, { tasks: tasks!, backend: celery({ broker: rabbit.url, results: redis.url, ...options }), ...more })
    await app.ready()
    return { app, log }
  }

  /** Has RabbitMQ take so many messages for those of a worker that has died. */
  async function dieWith (t: Test, queue: string, count: number): Promise<void> {
    const channel = await channelOf(t)
    let taken = 0
    await channel.consume(queue, () => { taken++ })
    await until('the messages', () => taken === count)
    await channel.close()
  }

  await t.test('messages under which a worker died run alone, one after the other, and then the others together', async t => {
    const queue = randomUUID()
    let running = 0
    let most = 0
    const seen: string[] = []
    const task = defineTask('task', async (name: string) => {
      most = Math.max(most, ++running)
      await until('a turn', async () => true)
      seen.push(`${name} ${running}`)
      running--
    })
    const { app: web } = await start(t, [task], { queue }, { worker: false })
    const handles = ['a', 'b', 'c'].map(name => web.backgroundTasks.add(task, name))
    await web.backgroundTasks.flush()
    await dieWith(t, queue, 3)
    const { log } = await start(t, [task], { queue })
    for (const handle of handles) t.equal(await handle.settled(), 'completed')
    t.same(seen.sort(), ['a 1', 'b 1', 'c 1'])
    t.equal(most, 1)
    t.equal(log.filter(({ msg }) => msg.endsWith('a worker went away with a background task, which is handed out again')).length, 3)
    for (const handle of ['d', 'e'].map(name => web.backgroundTasks.add(task, name))) t.equal(await handle.settled(), 'completed')
  })

  await t.test('one that has taken too many workers along fails', async t => {
    const queue = randomUUID()
    const task = defineTask('task', async () => {})
    const { app: web } = await start(t, [task], { queue }, { worker: false })
    const handle = web.backgroundTasks.add(task)
    const { id } = handle
    await web.backgroundTasks.flush()
    await dieWith(t, queue, 1)
    const { log } = await start(t, [task], { queue, maxCrashes: 0 })
    t.equal(await handle.settled(), 'failed')
    t.match(await web.backgroundTasks.find(id), { error: { message: /more than 0 workers went away with it/ } })
    t.ok(log.some(({ msg, level }) => level === 50 && msg.endsWith('too many workers went away with it')))
  })

  await t.test('one that waits for its turn while others run goes back when the worker closes', async t => {
    const queue = randomUUID()
    const gate = { open: false, busy: 0 }
    const busy = defineTask('busy', async () => {
      gate.busy++
      await until('the gate', () => gate.open)
    })
    const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => ctx.attempt)
    const { app: web } = await start(t, [task, busy], { queue }, { worker: false })
    const victim = web.backgroundTasks.add(task)
    await web.backgroundTasks.flush()
    await dieWith(t, queue, 1)
    const channel = await channelOf(t)
    const first = web.backgroundTasks.add(busy)
    await web.backgroundTasks.flush()
    const { app: worker } = await start(t, [task, busy], { queue })
    await until('both are taken', async () => gate.busy === 1 && (await channel.checkQueue(queue)).messageCount === 0)
    const later = web.backgroundTasks.add(task)
    await web.backgroundTasks.flush()
    const closed = worker.close()
    gate.open = true
    await closed
    t.equal(await first.settled(), 'completed')
    await start(t, [task, busy], { queue })
    for (const handle of [victim, later]) {
      t.equal(await handle.settled(), 'completed')
      t.equal((await web.backgroundTasks.find(handle.id))!.result, 1)
    }
  })

  await t.test('tasks that wait for a thread hold up no others, and go to a worker that has one', async t => {
    const queue = randomUUID()
    const file = join(t.testdir({}), 'thread.js')
    const gate = join(t.testdir({}), 'gate')
    writeFileSync(file, `module.exports = async gate => {
      while (!require('node:fs').existsSync(gate)) await new Promise(resolve => setTimeout(resolve, 20))
      return process.pid
    }`)
    const threaded = defineTask<string, number>('threaded', file)
    const plain = defineTask('plain', async () => 'plain')
    const elsewhere = defineTask('threaded', async () => 'elsewhere')
    const { app: web } = await start(t, [defineTask<string>('threaded'), plain], { queue }, { worker: false })
    const [definition] = [defineTask<string>('threaded')]
    const { app: adder } = await start(t, [definition!, plain], { queue }, { worker: false })
    await start(t, [threaded, plain], { queue }, { threads: { max: 1 }, worker: { concurrency: 3 } })
    const first = adder.backgroundTasks.add(definition!, gate)
    await until('it runs', async () => (await adder.backgroundTasks.find(first.id))?.state === 'running')
    const waiting = [1, 2].map(() => adder.backgroundTasks.add(definition!, gate))
    await adder.backgroundTasks.flush()
    t.equal(await web.backgroundTasks.add(plain).settled(), 'completed')
    await start(t, [elsewhere], { queue })
    for (const handle of waiting) {
      t.equal(await handle.settled(), 'completed')
      t.equal((await adder.backgroundTasks.find(handle.id))!.result, 'elsewhere')
    }
    writeFileSync(gate, '')
    t.equal(await first.settled(), 'completed')
  })

  await t.test('one after the other on a thread, beside others that have all the places', async t => {
    const queue = randomUUID()
    const [file, gates] = [join(t.testdir({}), 'thread.js'), ['one', 'two', 'three'].map(name => join(t.testdir({}), name))]
    writeFileSync(file, `module.exports = async gate => {
      while (!require('node:fs').existsSync(gate)) await new Promise(resolve => setTimeout(resolve, 20))
    }`)
    const threaded = defineTask<string>('threaded', file)
    const gate = { open: false, running: 0 }
    const plain = defineTask('plain', async () => {
      gate.running++
      await until('the gate', () => gate.open)
    })
    const { app } = await start(t, [threaded, plain], { queue }, { threads: { max: 1 }, worker: { concurrency: 3 } })
    const handles = gates.map(gate => app.backgroundTasks.add(threaded, gate))
    await app.backgroundTasks.flush()
    const stateOf = async (index: number) => (await app.backgroundTasks.find(handles[index]!.id))?.state
    await until('the first one runs', async () => (await Promise.all([0, 1, 2].map(stateOf))).includes('running'))
    const plains = [1, 2].map(() => app.backgroundTasks.add(plain))
    await app.backgroundTasks.flush()
    await until('all places are taken', () => gate.running === 2)
    for (const gate of gates) writeFileSync(gate, '')
    for (const handle of handles) t.equal(await handle.settled(), 'completed')
    gate.open = true
    for (const handle of plains) t.equal(await handle.settled(), 'completed')
  })

  await t.test('a message under which a worker died runs alone: those that came with it go back, and run afterwards', async t => {
    const queue = randomUUID()
    const seen: string[] = []
    const gate = { open: false }
    const task = defineTask('task', async (name: string) => {
      seen.push(`${name} begins`)
      if (name === 'first') await until('the gate', () => gate.open)
      seen.push(`${name} ends`)
    })
    const channel = await channelOf(t)
    await channel.assertQueue(queue, { durable: true })
    const send = (name: string, id = randomUUID(), own = {}) => {
      channel.sendToQueue(queue, Buffer.from(JSON.stringify([[name], {}, {}])), { contentType: 'application/json', headers: { task: 'task', id, 'fastify-background-tasks': JSON.stringify(own) } })
    }
    // The second one has the id of the first, and so waits for its end.
    const id = randomUUID()
    send('first', id)
    send('twin', id)
    send('victim', undefined, { crashes: 1 })
    send('neighbour')
    await until('the messages', async () => (await channel.checkQueue(queue)).messageCount === 4)
    await start(t, [task], { queue }, { worker: { concurrency: 10 } })
    await until('it runs', () => seen.length === 1)
    await until('the others are back', async () => (await channel.checkQueue(queue)).messageCount === 2)
    gate.open = true
    await until('all have run', () => seen.length === 8)
    t.same(seen.slice(0, 4), ['first begins', 'first ends', 'victim begins', 'victim ends'])
    t.same(seen.slice(4).sort(), ['neighbour begins', 'neighbour ends', 'twin begins', 'twin ends'])
  })

  await t.test('a second message of a task that runs goes back when the worker closes', async t => {
    const queue = randomUUID()
    const gate = { open: false, begun: 0 }
    const task = defineTask('task', async () => {
      gate.begun++
      await until('the gate', () => gate.open)
    })
    const channel = await channelOf(t)
    await channel.assertQueue(queue, { durable: true })
    const headers = { task: 'task', id: randomUUID() }
    for (let n = 0; n < 2; n++) channel.sendToQueue(queue, Buffer.from('[[], {}, {}]'), { contentType: 'application/json', headers })
    const { app } = await start(t, [task], { queue })
    await until('both are taken', async () => gate.begun === 1 && (await channel.checkQueue(queue)).messageCount === 0)
    gate.open = true
    await app.close()
    t.equal(gate.begun, 1)
    t.equal((await channel.checkQueue(queue)).messageCount, 1)
    const { log } = await start(t, [task], { queue })
    await until('it runs', () => gate.begun === 2)
    t.notOk(log.some(({ msg }) => msg.includes('a worker went away')), 'that was no crash')
  })

  await t.test('a task that has ended is not cancelled, even if its result is not written yet', async t => {
    const task = defineTask('task', async () => 1)
    const { app } = await start(t, [task], { queue: randomUUID() })
    const handle = app.backgroundTasks.add(task)
    process.kill(redis.pid, 'SIGSTOP')
    t.teardown(() => process.kill(redis.pid, 'SIGCONT'))
    await until('it has ended', () => app.backgroundTasks.stats().completed === 1)
    t.equal(await handle.cancel(), false)
    process.kill(redis.pid, 'SIGCONT')
    await until('its result', async () => (await app.backgroundTasks.find(handle.id).catch(() => null))?.state === 'completed')
  })

  await t.test('a task is stored once Redis knows of it, too; cancelled, it has a result as Celery writes it', async t => {
    const queue = randomUUID()
    const task = defineTask('task', async () => {})
    const { app: web } = await start(t, [task], { queue }, { worker: false, storeTimeout: 60_000 })
    const channel = await channelOf(t)
    process.kill(redis.pid, 'SIGSTOP')
    t.teardown(() => process.kill(redis.pid, 'SIGCONT'))
    let isStored = false
    const handle = web.backgroundTasks.add({ delay: 600_000 }, task)
    const stored = web.backgroundTasks.flush().then(() => { isStored = true })
    await until('RabbitMQ has it', async () => (await channel.checkQueue(queue)).messageCount === 1)
    await turns(20)
    t.equal(isStored, false)
    process.kill(redis.pid, 'SIGCONT')
    await stored
    const { app } = await start(t, [task], { queue })
    t.match(await app.backgroundTasks.find(handle.id), { state: 'pending' })
    const cancelled = app.backgroundTasks.add({ delay: 600_000 }, task)
    await app.backgroundTasks.flush()
    await until('the worker has it, and cancels it', () => cancelled.cancel())
    t.equal(await cancelled.settled(), 'cancelled')
    const client = new Redis(redis.url)
    t.teardown(() => client.quit())
    t.match(JSON.parse(await client.get(`celery-task-meta-${cancelled.id}`) as string), { status: 'REVOKED', date_done: /^\d{4}-\d\d-\d\dT/ })
  })

  await t.test('ten thousand and one tasks, by a worker that may run any number at once', async t => {
    const queue = randomUUID()
    let ran = 0
    const task = defineTask('task', async () => { ran++ })
    const { app } = await createApp(t, { tasks: [task], backend: celery({ broker: rabbit.url, queue }), worker: { concurrency: 100_000 }, storeTimeout: 60_000 })
    await app.ready()
    for (let n = 0; n < 10_001; n++) app.backgroundTasks.add(task)
    await app.backgroundTasks.flush()
    await until('all have run', () => ran === 10_001)
    const channel = await channelOf(t)
    await until('they are acknowledged', async () => (await channel.checkQueue(queue)).messageCount === 0)
    t.equal(app.backgroundTasks.stats().completed, 10_001)
  })

  await t.test('without results: what is here can be found, and cancelled', async t => {
    const queue = randomUUID()
    const gate = { open: false }
    const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => {
      await until('the gate', () => gate.open || ctx.signal.aborted)
      if (ctx.signal.aborted) throw ctx.signal.reason
    })
    const { app } = await createApp(t, { tasks: [task], backend: celery({ broker: [rabbit.url], queue }) })
    await app.ready()
    const running = app.backgroundTasks.add({ name: 'a label' }, task)
    const delayed = app.backgroundTasks.add({ delay: 600_000 }, task)
    await app.backgroundTasks.flush()
    const stored = (id: string, state: string) => until(state, async () => (await app.backgroundTasks.find(id))?.state === state)
    await stored(running.id, 'running')
    t.match(await app.backgroundTasks.find(running.id), { name: 'a label', attempts: 1, result: undefined })
    await stored(delayed.id, 'pending')
    t.equal(await delayed.cancel(), true)
    t.equal(await running.cancel(), true)
    t.equal(await delayed.settled(), 'cancelled')
    gate.open = true
    t.equal(await app.backgroundTasks.find(randomUUID()), null)
  })

  await t.test('Redis is away: tasks are added and run, and what becomes of them is told by the log', async t => {
    const queue = randomUUID()
    let ran = 0
    const task = defineTask('task', async () => { ran++ })
    const { app, log } = await start(t, [task], { queue })
    await redis.stop('SIGKILL')
    app.backgroundTasks.add(task)
    await app.backgroundTasks.flush()
    await until('it has run', () => ran === 1)
    await until('it is told', () => log.some(({ msg }) => msg === 'RabbitMQ: the result of a background task could not be stored'))
    const troubles = () => log.filter(({ msg }) => msg === 'Celery on RabbitMQ: Redis is in trouble').length
    t.ok(troubles() > 0)
    for (let i = 0; i < 20; i++) {
      app.backgroundTasks.add(task)
      await app.backgroundTasks.flush()
    }
    t.ok(troubles() < 20, `the same trouble is told now and then: ${troubles()} times`)
    await redis.start()
    await until('its results are kept again', async () => {
      const { id } = app.backgroundTasks.add(task)
      await app.backgroundTasks.flush()
      return app.backgroundTasks.find(id).then(info => info !== null, () => false)
    })
  })

  await t.test('a Redis that has become a replica: its connection is made anew', async t => {
    const task = defineTask('task', async () => 1)
    const { port } = new URL(redis.url)
    const { app } = await start(t, [task], { queue: randomUUID(), results: { host: '127.0.0.1', port: Number(port) } })
    t.equal(await app.backgroundTasks.add(task).settled(), 'completed')
    const client = new Redis(redis.url)
    t.teardown(() => client.disconnect())
    const connections = async () => Number(/total_connections_received:(\d+)/.exec(await client.info('stats'))![1])
    const before = await connections()
    await client.call('REPLICAOF', '127.0.0.1', '1')
    const handle = app.backgroundTasks.add(task)
    await app.backgroundTasks.flush()
    await until('it has connected again', async () => await connections() > before)
    await client.call('REPLICAOF', 'NO', 'ONE')
    await until('its result', async () => (await app.backgroundTasks.find(handle.id).catch(() => null))?.state === 'completed')
  })

  await t.test('a ready client of Redis stays open', async t => {
    const client = new Redis(redis.url)
    t.teardown(() => client.disconnect())
    const task = defineTask('task', async () => 1)
    const { app } = await start(t, [task], { queue: randomUUID(), results: client })
    t.equal(await app.backgroundTasks.add(task).settled(), 'completed')
    await app.close()
    t.equal(await client.ping(), 'PONG')
  })

  await t.test('a start without a server fails, and says which', async t => {
    const task = defineTask('task', async () => {})
    await t.rejects(start(t, [task], { broker: 'amqp://guest:secret-word@127.0.0.1:1' }), { code: 'FST_BGT_BACKEND_FAILED', message: /Celery on RabbitMQ received.*ECONNREFUSED/ })
    await t.rejects(start(t, [task], { results: 'redis://127.0.0.1:1' }), { code: 'FST_BGT_BACKEND_FAILED' })
    const error = await start(t, [task], { broker: rabbit.url.replace('guest:guest', 'guest:secret-word') }).then(() => null, error => error as Error)
    t.match(error, { code: 'FST_BGT_BACKEND_FAILED', message: /ACCESS.REFUSED/ })
    t.notMatch(inspect(error), 'secret-word')
  })
})

test('options', async t => {
  for (const options of [undefined, {}, { broker: '' }, { broker: 'redis://x' }, { broker: new URL('amqp://x') }, { broker: [] }, { broker: 'amqp://x', queue: '' }, { broker: 'amqp://x', routes: { a: '' } }, { broker: 'amqp://x', results: 'amqp://y' }, { broker: 'amqp://x', resultExpires: 0 }]) {
    t.throws(() => celery(options as never), { code: 'FST_BGT_INVALID_OPTION' }, JSON.stringify(options))
  }
  for (const socket of ['x', null]) t.throws(() => celery({ broker: 'amqp://x', socket } as never), { code: 'FST_BGT_INVALID_OPTION' })
  t.equal(celery({ broker: 'amqp://x', socket: { ca: 'x' } }).name, 'Celery on RabbitMQ')
  t.throws(() => celery({ broker: 'amqp://x', retries: 3 } as never), { code: 'FST_BGT_UNKNOWN_OPTION' })
  t.equal(celery({ broker: { hostname: '127.0.0.1' } }).name, 'Celery on RabbitMQ')
})

test('a missing package is named with the command that installs it', async t => {
  const loader = Module as unknown as { _load (name: string, ...args: unknown[]): unknown }
  const load = loader._load
  t.teardown(() => { loader._load = load })
  let missing = ''
  let code = 'MODULE_NOT_FOUND'
  loader._load = function (name, ...args) {
    if (name === missing) throw Object.assign(new Error(`no ${name}`), { code })
    return load.call(this, name, ...args)
  }
  const starts = async (options: Partial<CeleryOptions>) => {
    const { app } = await createApp(t, { tasks: [defineTask('task', async () => {})], backend: celery({ broker: 'amqp://127.0.0.1:1', ...options }) })
    await app.ready()
  }
  missing = 'amqplib'
  await t.rejects(starts({}), { code: 'FST_BGT_MISSING_PACKAGE', message: /^The backend 'Celery on RabbitMQ' needs .*npm install amqplib`/ })
  missing = 'ioredis'
  await t.rejects(starts({ results: 'redis://127.0.0.1:1' }), { code: 'FST_BGT_MISSING_PACKAGE', message: /npm install amqplib ioredis`/ })
  code = 'ERR_ODD'
  await t.rejects(starts({ results: 'redis://127.0.0.1:1' }), { code: 'FST_BGT_BACKEND_FAILED', message: /no ioredis/ })
})
