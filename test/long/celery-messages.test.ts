import { randomUUID } from 'node:crypto'
import { connect, type ConsumeMessage } from 'amqplib'
import Redis from 'ioredis'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TaskContext } from '../../index'
import { celery, type CeleryOptions } from '../../lib/backends/celery'
import { createApp } from '../support/server'
import { noRabbit, noRedis, ownRabbit, redis } from '../support/services'
import { telemetry } from '../support/telemetry'
import { until } from '../support/until'

// Messages and results that other programs have written, as Celery may, and as it would not.

test('messages of other programs', { skip: noRabbit || noRedis }, async t => {
  const [rabbit, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])

  async function channelOf (t: Test) {
    const model = await connect(rabbit.url) as Awaited<ReturnType<typeof import('amqplib')['connect']>>
    t.teardown(() => model.close())
    return model.createChannel()
  }

  async function start (t: Test, tasks: BackgroundTasksOptions['tasks'], options: Partial<CeleryOptions> = {}, more: BackgroundTasksOptions = {}) {
    const queue = options.queue ?? randomUUID()
    const { app, log } = await createApp(t, { tasks: tasks!, backend: celery({ broker: rabbit.url, queue, results, ...options }), ...more })
    await app.ready()
    const channel = await channelOf(t)
    /** Sends a message, and returns the id of its task. */
    const send = (task: string, body: unknown = [[], {}, {}], headers: object = {}, properties: object = {}) => {
      const id = randomUUID()
      channel.sendToQueue(queue, Buffer.from(JSON.stringify(body)), { contentType: 'application/json', contentEncoding: 'utf-8', headers: { task, id, ...headers }, ...properties })
      return id
    }
    const ends = (id: string, state: string) => until(`${state}: ${id}`, async () => {
      const info = await app.backgroundTasks.find(id)
      return info?.state === state && info
    })
    return { app, log, channel, queue, send, ends }
  }

  await t.test('a task that is not known here goes to a worker that knows it', async t => {
    const { log, send, queue, ends } = await start(t, [defineTask('another', async () => {})])
    const id = send('stranger', [[7], {}, {}])
    await until('it is left', () => log.some(({ msg, task }) => msg === 'background task left to another worker' && task!.id === id))
    await start(t, [defineTask('stranger', async (n: number, { attempt }: TaskContext) => [n, attempt])], { queue })
    t.match(await ends(id, 'completed'), { result: [7, 1], attempts: 1 })
  })

  await t.test('callbacks, and the next step of a chain', async t => {
    const next = randomUUID()
    const task = defineTask('first', async (n: number) => n + 1)
    const { channel, send, ends } = await start(t, [task], { routes: { plain: next, 'cb.*': next } })
    const seen: ConsumeMessage[] = []
    await channel.consume(next, message => { seen.push(message!) }, { noAck: true })
    const before = Date.now()
    const id = send('first', [[41], {}, {
      callbacks: [
        { task: 'plain' },
        { task: 'cb.long', args: ['x'], kwargs: { a: 1 }, options: { queue: 'q'.repeat(256), task_id: 'i'.repeat(256) } },
        { task: 'fixed', args: ['x'], immutable: true, options: { queue: next, task_id: 'an-id', countdown: 60, ignore_result: true, time_limit: 5 } },
        'no step'
      ],
      chain: [
        { task: 'last' },
        { task: 'second', options: { queue: next, eta: '2030-01-01T00:00:00', link: [{ task: 'linked' }], link_error: { task: 'failed' } } }
      ]
    }])
    t.match(await ends(id, 'completed'), { result: 42 })
    await until('what follows', () => seen.length === 4)
    const bodies = seen.map(({ content }) => JSON.parse(content.toString()) as unknown[])
    const headers = seen.map(({ properties }) => properties.headers!)
    t.same(bodies.map(([args, kwargs]) => [args, kwargs]), [[[42], {}], [[42, 'x'], { a: 1 }], [['x'], {}], [[42], {}]])
    t.match(headers, [
      { task: 'plain', root_id: id, parent_id: id, eta: null, ignore_result: false },
      { task: 'cb.long', root_id: id },
      { task: 'fixed', id: 'an-id', ignore_result: true, timelimit: [5, null] },
      { task: 'second', eta: '2030-01-01T00:00:00' }
    ])
    t.ok(headers.slice(0, 2).every(({ id }) => (id as string).length === 36), 'ids of their own')
    t.match(headers[2]!.eta, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/)
    const eta = Date.parse(headers[2]!.eta as string)
    t.ok(eta >= before + 60_000 && eta <= Date.now() + 60_001)
    t.same(bodies[3]![2], { callbacks: [{ task: 'linked' }], errbacks: [{ task: 'failed' }], chain: [{ task: 'last' }], chord: null })
  })

  await t.test('a result that is to be ignored is not kept', async t => {
    let ran = 0
    const task = defineTask('task', async () => { ran++ })
    const { app, send, ends } = await start(t, [task])
    const ignored = send('task', [[], {}, {}], { ignore_result: true })
    await until('it has run', () => ran === 1)
    await ends(send('task'), 'completed')
    t.equal(await app.backgroundTasks.find(ignored), null)
  })

  await t.test('an encoding that is not named is UTF-8; an id that is too long for AMQP is refused', async t => {
    const task = defineTask('task', async (text: string) => text)
    const { log, send, ends } = await start(t, [task])
    t.match(await ends(send('task', [['ä'], {}, {}], {}, { contentEncoding: undefined }), 'completed'), { result: 'ä' })
    const id = 'i'.repeat(256)
    send('task', [[], {}, {}], { id })
    await until('it is refused', () => log.some(({ msg, task }) => msg.endsWith('cannot be used') && task!.id === id))
  })

  await t.test('the trace of a message is continued', async t => {
    const { spans } = telemetry(t)
    const task = defineTask('traced', async () => {})
    const { send, ends } = await start(t, [task])
    const traceId = '0af7651916cd43dd8448eb211c80319c'
    await ends(send('traced', [[], {}, {}], { traceparent: `00-${traceId}-b7ad6b7169203331-01`, tracestate: 5 }), 'completed')
    t.equal((await until('its span', () => spans('process traced')[0])).spanContext().traceId, traceId)
  })

  await t.test('an error whose fields cannot be read, and what it was thrown with', async t => {
    const broken = defineTask('broken', async () => {
      throw Object.defineProperty(new Error('boom'), 'stack', { get () { throw new Error('a trap') } })
    })
    const { send, ends } = await start(t, [broken])
    t.match(await ends(send('broken'), 'failed'), { error: { message: 'boom' } })
  })

  await t.test('results that other programs have written', async t => {
    const { app } = await start(t, [defineTask('task', async () => {})], {}, { worker: false })
    const client = new Redis(results)
    t.teardown(() => client.disconnect())
    const find = async (text: string) => {
      const id = randomUUID()
      await client.set(`celery-task-meta-${id}`, text)
      return app.backgroundTasks.find(id)
    }
    t.equal(await find('NaN'), null)
    t.equal(await find('[1]'), null)
    t.match(await find('{"status": "SUCCESS", "result": 5}'), { state: 'completed', name: '', result: 5, attempts: 1 })
    t.match(await find('{"status": "SUCCESS", "result": 5, "name": "py.task", "retries": 2}'), { name: 'py.task', attempts: 3 })
    t.match(await find('{"status": "RECEIVED", "result": {"hostname": "x"}}'), { state: 'pending', attempts: 0, progress: undefined })
    t.match(await find('{"status": "ODD", "result": 5}'), { state: 'running', progress: 5, result: undefined })
    for (const result of ['"a text"', 'null']) t.match(await find(`{"status": "FAILURE", "result": ${result}}`), { state: 'failed', error: { message: '' } })
    t.match(await find('{"status": "FAILURE", "result": {"exc_type": "KeyError", "exc_message": "a text"}}'), { error: { name: 'KeyError', message: 'a text', stack: 'KeyError: a text' } })
  })
})
