import { randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'amqplib'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TaskContext } from '../../index'
import { celery, type CeleryOptions } from '../../lib/backends/celery'
import { Proxy } from '../support/proxy'
import { createApp } from '../support/server'
import { evalInRabbit, noRabbit, noRedis, ownRabbit, redis } from '../support/services'
import { newConnections, openConnections } from '../support/silence'
import { ends, until } from '../support/until'

test('RabbitMQ and its connections', { skip: noRabbit || noRedis }, async t => {
  const [rabbit, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])

  /** The test's own channel to RabbitMQ. */
  async function channelOf (t: Test) {
    const model = await connect(rabbit.url) as Awaited<ReturnType<typeof import('amqplib')['connect']>>
    model.on('error', () => {})
    t.teardown(() => model.close().catch(() => {}))
    return model.createChannel()
  }

  async function start (t: Test, tasks: BackgroundTasksOptions['tasks'], options: Partial<CeleryOptions>, more: BackgroundTasksOptions = {}) {
    const { app, log } = await createApp(t, { tasks: tasks!, backend: celery({ broker: rabbit.url, ...options }), storeTimeout: 2_000, ...more })
    app.get('/', async request => request.backgroundTasks.add(tasks![0]!, undefined).id)
    await app.ready()
    /** No client is kept waiting. */
    const add = async () => {
      const response = await ends('an answer', app.inject('/'))
      return { status: response.statusCode, body: response.body }
    }
    return { app, log, add }
  }

  await t.test('silent connections', async t => {
    const through = (proxy: Proxy) => celery({ broker: `amqp://127.0.0.1:${proxy.port}`, queue: randomUUID() })
    await t.test('open ones', async t => {
      const proxy = await Proxy.start(t, rabbit.port)
      await openConnections(t, proxy, through(proxy))
    })
    await t.test('new ones', async t => {
      const proxy = await Proxy.start(t, rabbit.port)
      await newConnections(t, proxy, through(proxy))
    })
    await t.test('those of a worker', async t => {
      const proxy = await Proxy.start(t, rabbit.port)
      const task = defineTask('task', async () => {})
      const queue = randomUUID()
      const { app: web } = await start(t, [task], { queue, results }, { worker: false })
      const { log } = await start(t, [task], { queue, results, broker: `amqp://127.0.0.1:${proxy.port}` })
      t.equal(await web.backgroundTasks.add(task).settled(), 'completed')
      proxy.silence()
      t.equal(await web.backgroundTasks.add(task).settled(), 'completed')
      t.ok(log.some(({ msg, level }) => level === 40 && msg.endsWith('is in trouble')), 'it is logged')
    })
  })

  await t.test('connections say in RabbitMQ what they are for', async t => {
    await start(t, [defineTask('task', async () => {})], { queue: randomUUID() })
    const connections = evalInRabbit(rabbit, 'rabbit_networking:connection_info_all([client_properties]).')
    for (const what of ['adds tasks', 'runs tasks']) t.match(connections, `fastify-background-tasks: ${what}`)
  })

  await t.test('a queue that is full refuses: 503, and again 200 when it has room', async t => {
    const queue = randomUUID()
    const channel = await channelOf(t)
    await channel.assertQueue(queue, { durable: true, arguments: { 'x-max-length': 2, 'x-overflow': 'reject-publish' } })
    const { add } = await start(t, [defineTask('task', async () => {})], { queue }, { worker: false })
    t.same([(await add()).status, (await add()).status], [200, 200])
    const { status, body } = await add()
    t.match({ status, ...JSON.parse(body) }, { status: 503, code: 'FST_BGT_STORE_FAILED', message: /it is full/ })
    await channel.purgeQueue(queue)
    t.equal((await add()).status, 200)
  })

  await t.test('the tasks of a reply that fails after they were stored stay, and the log says why', async t => {
    const queue = randomUUID()
    const task = defineTask('task', async () => {})
    const { app, log } = await createApp(t, { tasks: [task], backend: celery({ broker: rabbit.url, queue }), worker: false })
    app.get('/', async ({ backgroundTasks }) => {
      backgroundTasks.add(task)
      return createReadStream('/no/such/file')
    })
    t.equal((await app.inject('/')).statusCode, 500)
    await until('it is told', () => log.some(({ msg, level, why }) => level === 40 && msg === 'background task of a failed request stays in the backend' &&
      why === 'it waits in RabbitMQ, which takes no message out of the middle of a queue, or it has begun'))
    t.equal((await (await channelOf(t)).checkQueue(queue)).messageCount, 1)
  })

  await t.test('a memory alarm: 503, and again 200 when it is over', async t => {
    const { add, app } = await start(t, [defineTask('task', async () => {})], { queue: randomUUID() })
    t.equal((await add()).status, 200)
    evalInRabbit(rabbit, 'vm_memory_monitor:set_vm_memory_high_watermark(0.00001).')
    t.teardown(() => evalInRabbit(rabbit, 'vm_memory_monitor:set_vm_memory_high_watermark(0.4).'))
    await until('it is refused', async () => (await add()).status === 503)
    // RabbitMQ tells a connection of the alarm once that sends something.
    const refused = await until('it says why', async () => {
      const { status, body } = await add()
      return body.includes('RabbitMQ takes no messages now: low on memory') && { status, ...JSON.parse(body) }
    })
    t.match(refused, { status: 503, code: 'FST_BGT_STORE_FAILED' })
    evalInRabbit(rabbit, 'vm_memory_monitor:set_vm_memory_high_watermark(0.4).')
    await until('it is stored again', async () => (await add()).status === 200)
    await app.close()
  })

  await t.test('a connection is cut while a task runs: it is recognized when it comes back, and runs once', async t => {
    const proxy = await Proxy.start(t, rabbit.port)
    const queue = randomUUID()
    const gate = { open: false }
    let begun = 0
    const task = defineTask('task', async () => {
      begun++
      await until('the gate', () => gate.open)
    })
    const { app: web, add } = await start(t, [task], { queue, results }, { worker: false })
    const channel = await channelOf(t)
    await start(t, [task], { queue, results, broker: `amqp://127.0.0.1:${proxy.port}` }, { worker: { concurrency: 2 } })
    const { body: first } = await add()
    await until('it runs', () => begun === 1)
    const connections = proxy.accepted
    proxy.cut()
    await until('it has connected again', () => proxy.accepted > connections + 1)
    await until('it has the message again', async () => (await channel.checkQueue(queue)).messageCount === 0)
    gate.open = true
    await until('its end', async () => (await web.backgroundTasks.find(first))?.state === 'completed')

    gate.open = false
    const { body: second } = await add()
    await until('it runs', () => begun === 2)
    proxy.swallowsNew = true
    proxy.cut()
    gate.open = true
    await until('its end, while there is no connection', async () => (await web.backgroundTasks.find(second))?.state === 'completed')
    proxy.swallowsNew = false
    proxy.cut()
    await until('it is acknowledged', async () => {
      const { messageCount, consumerCount } = await channel.checkQueue(queue)
      return messageCount === 0 && consumerCount === 1
    })
    t.equal(await web.backgroundTasks.add(task, undefined).settled(), 'completed', 'its place is free')
    t.equal(begun, 3)
  })

  await t.test('a connection is cut while tasks wait for their time: they run then, and once', async t => {
    const proxy = await Proxy.start(t, rabbit.port)
    const queue = randomUUID()
    const seen: string[] = []
    const task = defineTask('task', async (name: string) => { seen.push(name) })
    const { app, log } = await start(t, [task], { queue, broker: `amqp://127.0.0.1:${proxy.port}` })
    const channel = await channelOf(t)
    app.backgroundTasks.add({ delay: 1_500 }, task, 'a')
    app.backgroundTasks.add({ delay: 1_500 }, task, 'b')
    await app.backgroundTasks.flush()
    await until('they are kept', async () => (await channel.checkQueue(queue)).messageCount === 0)
    const connections = proxy.accepted
    proxy.cut()
    await until('it has connected again', () => proxy.accepted === connections + 2)
    await until('both have run', () => seen.length === 2)
    await until('they are acknowledged', async () => (await channel.checkQueue(queue)).messageCount === 0)
    t.same(seen.sort(), ['a', 'b'])
    t.notOk(log.some(({ msg }) => msg.includes('a worker went away')), 'that was no crash')
  })

  await t.test('an attempt fails while there is no connection: it is made again', async t => {
    const proxy = await Proxy.start(t, rabbit.port)
    const queue = randomUUID()
    const gate = { open: false }
    const seen: number[] = []
    const task = defineTask('task', async (_payload: undefined, { attempt }: TaskContext) => {
      seen.push(attempt)
      await until('the gate', () => gate.open)
      if (seen.length === 1) throw new Error('boom')
    }, { attempts: 2 })
    const { app: web } = await start(t, [task], { queue, results }, { worker: false })
    const { log } = await start(t, [task], { queue, results, broker: `amqp://127.0.0.1:${proxy.port}` })
    const handle = web.backgroundTasks.add(task)
    await until('it runs', () => seen.length === 1)
    proxy.swallowsNew = true
    proxy.cut()
    gate.open = true
    await until('its end', () => log.some(({ msg }) => msg === 'background task will be tried again'))
    proxy.swallowsNew = false
    proxy.cut()
    t.equal(await handle.settled(), 'completed')
    t.same(seen, [1, 1])
  })

  await t.test('the application closes while it connects again: at once', async t => {
    const proxy = await Proxy.start(t, rabbit.port)
    const { app, log } = await start(t, [defineTask('task', async () => {})], { queue: randomUUID(), broker: `amqp://127.0.0.1:${proxy.port}` }, { storeTimeout: 60_000 })
    const connections = proxy.accepted
    proxy.swallowsNew = true
    proxy.cut()
    await until('it tries to', () => proxy.accepted === connections + 2)
    await ends('the close', app.close())
    t.same(log.filter(({ level }) => level > 40), [])
  })

  await t.test('the application closes while its connection is silent: after storeTimeout, with no error', async t => {
    const proxy = await Proxy.start(t, rabbit.port)
    const { app, log, add } = await start(t, [defineTask('task', async () => {})], { queue: randomUUID(), broker: `amqp://127.0.0.1:${proxy.port}` }, { storeTimeout: 500, worker: false })
    t.equal((await add()).status, 200)
    proxy.silence()
    await ends('the close', app.close())
    t.same(log.filter(({ level }) => level > 40), [])
  })

  await t.test('the application closes while RabbitMQ takes no messages: what is to be tried again stays in the queue', async t => {
    const queue = randomUUID()
    const gate = { open: false, begun: 0 }
    const task = defineTask('task', async () => {
      gate.begun++
      await until('the gate', () => gate.open)
      throw new Error('boom')
    }, { attempts: 2 })
    const { app, log, add } = await start(t, [task], { queue }, { storeTimeout: 500 })
    t.equal((await add()).status, 200)
    await until('it runs', () => gate.begun === 1)
    evalInRabbit(rabbit, 'vm_memory_monitor:set_vm_memory_high_watermark(0.00001).')
    t.teardown(() => evalInRabbit(rabbit, 'vm_memory_monitor:set_vm_memory_high_watermark(0.4).'))
    await until('messages are refused', async () => (await add()).status === 503)
    gate.open = true
    await until('its end', () => log.some(({ msg }) => msg === 'background task will be tried again'))
    await ends('the close', app.close())
    evalInRabbit(rabbit, 'vm_memory_monitor:set_vm_memory_high_watermark(0.4).')
    await start(t, [task], { queue })
    await until('it runs again', () => gate.begun >= 2)
  })

  await t.test('a queue that another connection has for itself: the start fails, and says why', async t => {
    const queue = randomUUID()
    const channel = await channelOf(t)
    await channel.assertQueue(queue, { exclusive: true })
    await t.rejects(start(t, [defineTask('task', async () => {})], { queue }), { code: 'FST_BGT_BACKEND_FAILED', message: /RESOURCE_LOCKED/ })
  })

  await t.test('a message that is too large for RabbitMQ: 503 with the reason, and 200 for the next one', async t => {
    evalInRabbit(rabbit, 'application:set_env(rabbit, max_message_size, 10000).')
    t.teardown(() => evalInRabbit(rabbit, 'application:set_env(rabbit, max_message_size, 134217728).'))
    const task = defineTask('task', async (_text: string) => {})
    const { app } = await createApp(t, { tasks: [task], backend: celery({ broker: rabbit.url, queue: randomUUID() }), worker: false })
    app.get<{ Params: { size: string } }>('/:size', async ({ backgroundTasks, params }) => backgroundTasks.add(task, 'x'.repeat(Number(params.size))).id)
    const add = (size: number) => ends('an answer', app.inject(`/${size}`))
    const { statusCode, body } = await add(20_000)
    t.match({ statusCode, ...JSON.parse(body) }, { statusCode: 503, code: 'FST_BGT_STORE_FAILED', message: /PRECONDITION_FAILED/ })
    await until('the next one is stored', async () => (await add(20)).statusCode === 200)
  })

  await t.test('a task runs for longer than RabbitMQ waits for an acknowledgement: it is recognized, and runs once', async t => {
    evalInRabbit(rabbit, 'application:set_env(rabbit, consumer_timeout, 300), application:set_env(rabbit, channel_tick_interval, 100).')
    t.teardown(() => evalInRabbit(rabbit, 'application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000).'))
    const gate = { open: false, begun: 0 }
    const task = defineTask('task', async () => {
      gate.begun++
      await until('the gate', () => gate.open)
    })
    const { app, log } = await start(t, [task], { queue: randomUUID(), results })
    const handle = app.backgroundTasks.add(task)
    await until('the channel is closed', () => log.some(({ err }) => err !== undefined && /PRECONDITION_FAILED.*timeout/s.test(err.message)))
    gate.open = true
    t.equal(await handle.settled(), 'completed')
    t.equal(gate.begun, 1)
  })

  await t.test('the queue is deleted: it is declared again', async t => {
    const queue = randomUUID()
    const task = defineTask('task', async () => {})
    const { app, add } = await start(t, [task], { queue, results })
    t.equal((await add()).status, 200)
    const channel = await channelOf(t)
    await channel.deleteQueue(queue)
    await until('it is stored again', async () => (await add()).status === 200)
    t.equal(await app.backgroundTasks.add(task).settled(), 'completed', 'and consumed again')
  })

  await t.test('a quorum queue is used as it is: attempts, delays, crashes', async t => {
    const queue = randomUUID()
    const channel = await channelOf(t)
    await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
    const seen: number[] = []
    const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => {
      seen.push(ctx.attempt)
      if (ctx.attempt < 3) throw new Error('boom')
    }, { attempts: 3, backoff: 50 })
    const { app, add } = await start(t, [task], { queue, results })
    const { body: id } = await add()
    await until('its end', async () => (await app.backgroundTasks.find(id))?.state === 'completed')
    t.same(seen, [1, 2, 3])
    t.equal(await app.backgroundTasks.add({ delay: 300, attempts: 5 }, task).settled(), 'completed')
  })

  await t.test('a worker has no more messages than it can run; what is not due yet takes no place', async t => {
    const queue = randomUUID()
    const gate = { open: false }
    let running = 0
    const task = defineTask('task', async () => {
      running++
      await until('the gate', () => gate.open)
    })
    const channel = await channelOf(t)
    const { app, add } = await start(t, [task], { queue }, { worker: { concurrency: 2 } })
    for (let n = 0; n < 5; n++) app.backgroundTasks.add({ delay: 600_000 }, task)
    await app.backgroundTasks.flush()
    await until('they are kept', async () => (await channel.checkQueue(queue)).messageCount === 0)
    for (let n = 0; n < 10; n++) await add()
    await until('two run', () => running === 2)
    await sleep(100)
    t.equal((await channel.checkQueue(queue)).messageCount, 8)
    t.equal(running, 2)
    gate.open = true
    await until('all have run', () => running === 10)
  })

  await t.test('what is no task is rejected, with a line in the log, and goes to the dead letters', async t => {
    const [queue, dead] = [randomUUID(), randomUUID()]
    const channel = await channelOf(t)
    await channel.assertQueue(dead)
    await channel.assertQueue(queue, { durable: true, deadLetterExchange: '', deadLetterRoutingKey: dead })
    const seen: unknown[] = []
    const task = defineTask('task', async (payload: unknown) => { seen.push(payload) })
    const id = randomUUID()
    const { app, log } = await start(t, [task], { queue, results })
    const good = { contentType: 'application/json', contentEncoding: 'utf-8', headers: { task: 'task', id } }
    const send = (body: string, properties: object) => channel.sendToQueue(queue, Buffer.from(body), properties)
    send('not JSON', good)
    send('{}', good)
    send('[1, 2]', good)
    send('[[], {}, {}]', { ...good, contentType: 'application/x-python-serialize' })
    send('[[], {}, {}]', { ...good, contentEncoding: 'binary' })
    send('[[], {}, {}]', { ...good, headers: { ...good.headers, compression: 'application/x-gzip' } })
    send('{"task": "task", "id": "1", "args": [], "kwargs": {}}', { contentType: 'application/json' })
    await until('the dead letters', async () => (await channel.checkQueue(dead)).messageCount === 7)
    t.match(log.filter(({ msg }) => msg.endsWith('cannot be used')).map(({ err }) => err!.message), [
      /not JSON/, /no list of arguments/, /no list of arguments/, /its content type is 'application\/x-python-serialize'/, /encoded as 'binary'/, /compressed, or encoded as 'application\/x-gzip'/, /no headers 'task' and 'id'/
    ])
    t.match(await app.backgroundTasks.find(id), { state: 'failed', error: { message: /cannot be used/ } })
    // Odd, but readable: no third part, an own header that is none, times that are none.
    send('[["odd"], {}]', { ...good, headers: { ...good.headers, id: randomUUID(), 'fastify-background-tasks': 'null', eta: 'soon', expires: 5, timelimit: 'x' } })
    send('[["odd"], {}, {"chain": "x", "callbacks": {"task": 1}}]', { ...good, headers: { ...good.headers, id: randomUUID(), 'fastify-background-tasks': '{', eta: '2020-01-01T00:00:00' } })
    await until('the odd ones', () => seen.length === 2)
    t.same(seen, ['odd', 'odd'])
  })
})
