import { fastifyAwilixPlugin } from '@fastify/awilix'
import { asFunction, createContainer } from 'awilix'
import Fastify, { LogController, type FastifyInstance, type FastifyServerOptions } from 'fastify'
import Redis from 'ioredis'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { test, type Test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions, type TaskHandle } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { requestIdLogLabel } from '../lib/fastify/request-log'
import { until } from './support/until'
import { listen, settled, signal, createApp, type LogLine } from './support/server'
import { noRedis, redis } from './support/services'
import { StubBackend } from './support/stub-backend'
import { noLogController } from './support/versions'

/*
 * Every line that the plugin writes about a task says which one, by id and name, and for which request.
 */

const ERROR = 50
const WARN = 40
const INFO = 30
const DEBUG = 20

const ours = (log: LogLine[], msg: string) => log.filter(line => line.msg === msg)

/** Checks that there is one such line, of this task and request. */
function checkLine (t: Test, log: LogLine[], msg: string, level: number, task: { id: string, name: string }, reqId: string | null = 'req-1', label = 'reqId') {
  const lines = ours(log, msg).filter(line => line.task?.name === task.name)
  t.equal(lines.length, 1, `${msg}: ${task.name}`)
  const [line] = lines as [LogLine]
  t.match(line, { level, task: { id: task.id, name: task.name } })
  t.equal(line[label] ?? null, reqId)
  return line
}

test('failed, tried again, dropped, cancelled, replaced, and onError that fails', async t => {
  const { app, log } = await createApp(t, {
    onFailure: 'stop',
    onError: () => { throw new Error('in onError') }
  })
  const handles: Record<string, TaskHandle> = {}
  app.get('/', async ({ backgroundTasks: tasks }) => {
    const add = (name: string, options: object, fn = () => {}) => { handles[name] = tasks.add({ ...options, name }, fn) }
    add('only on failure', { runOn: 'failure' })
    add('earlier', { key: 'k' })
    add('later', { key: 'k' })
    add('cancelled', {})
    await handles['cancelled']!.cancel()
    let attempts = 0
    add('flaky', { attempts: 2 }, () => { if (++attempts === 1) throw new Error('the first') })
    add('failing', {}, () => { throw new Error('boom') })
    add('behind', {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2, dropped: 2, failed: 1, cancelled: 1, replaced: 1, retried: 1 })
  const check = (msg: string, level: number, name: string) => checkLine(t, log, msg, level, handles[name]!)
  t.match(check('background task failed', ERROR, 'failing'), { err: { message: 'boom', stack: /boom/ }, task: { attempt: 1 } })
  t.match(check('onError of background tasks failed', ERROR, 'failing'), { err: { message: 'in onError' } })
  t.match(check('background task will be tried again', DEBUG, 'flaky'), { err: { message: 'the first' }, task: { attempt: 1 } })
  t.match(check('background task dropped', DEBUG, 'only on failure'), { why: "runOn: 'failure'" })
  t.match(check('background task dropped', DEBUG, 'behind'), { why: 'a task before it failed' })
  check('background task cancelled', DEBUG, 'cancelled')
  t.match(check('background task replaced', DEBUG, 'earlier'), { by: { id: handles.later!.id, name: 'later' } })
  t.equal(log.filter(({ level }) => level === ERROR).length, 2, 'one line a failure, and one for onError')
})

test('a running task that is cancelled, and tasks of the application, which have no request', async t => {
  const { app, log } = await createApp(t)
  const running = signal()
  const handle = app.backgroundTasks.add({ name: 'listens', signal: true }, async (signal: AbortSignal) => {
    running.resolve()
    await once(signal, 'abort')
  })
  await running.promise
  t.equal(await handle.cancel(), true)
  const failing = app.backgroundTasks.add({ name: 'failing' }, () => { throw new Error('boom') })
  await settled(app, { cancelled: 1, failed: 1 })
  checkLine(t, log, 'background task cancelled', DEBUG, handle, null)
  checkLine(t, log, 'background task failed', ERROR, failing, null)
})

test('the start: the resolved options; the close: each task that has not ended, then the account', async t => {
  const { app, log } = await createApp(t, { abortGrace: undefined as never, closeTimeout: 10, onError: () => {}, tasks: [defineTask('a task', () => {})] })
  t.match(ours(log, 'background tasks registered'), [{
    level: DEBUG,
    backgroundTasks: {
      tasks: ['a task'],
      onFailure: 'continue',
      onError: true,
      outcome: false,
      concurrency: 'Infinity',
      maxPending: 100_000,
      abortGrace: 30_000,
      closeTimeout: 10,
      backend: null,
      workerConcurrency: 10,
      storeTimeout: 5_000,
      mode: 'run',
      asyncContext: false,
      disposeScopes: true,
      threads: { maxQueue: 'Infinity' }
    }
  }])
  const { log: others } = await createApp(t, { outcome: () => undefined })
  t.match(ours(others, 'background tasks registered'), [{ backgroundTasks: { onError: false, outcome: true } }])
  const handles: TaskHandle[] = []
  const running = signal()
  app.get('/', async request => {
    handles.push(
      request.backgroundTasks.add({ name: 'endless' }, () => {
        running.resolve()
        return new Promise(() => {})
      }),
      request.backgroundTasks.add({ name: 'in line' }, () => {})
    )
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await running.promise
  await app.close()
  const msg = 'background task did not end before the application closed'
  t.match(checkLine(t, log, msg, ERROR, handles[0]!), { task: { state: 'running' } })
  t.match(checkLine(t, log, msg, ERROR, handles[1]!), { task: { state: 'pending' } })
  t.match(log.at(-1), { level: INFO, msg: 'background tasks drained', backgroundTasks: { accepted: 2, failed: 1, dropped: 1, abandoned: 1 } })
})

test('a DI scope that cannot be disposed: that of a request, and that of one attempt', async t => {
  const log: LogLine[] = []
  const app = Fastify({ forceCloseConnections: true, logger: { level: 'debug', stream: { write: line => { log.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  const container = createContainer()
  await app.register(fastifyAwilixPlugin, { container, disposeOnResponse: true })
  const task = defineTask('with a scope', async (_payload: undefined, ctx) => {
    (ctx.diScope as unknown as typeof container).resolve('broken')
  })
  await app.register(backgroundTasks, { tasks: [task] })
  container.register('broken', asFunction(() => ({})).scoped().disposer(() => { throw new Error('in the disposer') }))
  let handle!: TaskHandle
  app.get('/', async request => {
    (request.diScope as unknown as typeof container).resolve('broken')
    handle = request.backgroundTasks.add(task)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  const msg = 'disposing a DI scope after its background tasks failed'
  const lines = await until('both lines', () => ours(log, msg).length === 2 && ours(log, msg))
  t.same(lines.map(({ reqId, task }) => [reqId, task?.id]).sort(), [['req-1', handle.id], ['req-1', undefined]].sort())
})

const stored = (t: Test, options: BackgroundTasksOptions = {}) => {
  const task = defineTask('keep', async () => {})
  const backend = new StubBackend()
  return createApp(t, { tasks: [task], backend, ...options }).then(made => ({ ...made, task, backend }))
}

test('stored tasks: not stored, not cancelled, cancelled, dropped by their dedupe id', async t => {
  const { app, log, task, backend } = await stored(t)
  const handles: TaskHandle[] = []
  app.get('/late', async (request, reply) => {
    reply.hijack()
    reply.raw.end('x')
    await once(reply.raw, 'close')
    backend.onStore = async () => { throw new Error('full') }
    handles.push(request.backgroundTasks.add({ name: 'not stored' }, task))
  })
  app.get('/replace', async request => {
    handles.push(request.backgroundTasks.add({ name: 'not cancelled', key: 'k' }, task))
    backend.onCancel = async () => { throw new Error('gone') }
    backend.onStore = async tasks => {
      backend.onStore = async tasks => tasks.map(({ id }) => id)
      request.backgroundTasks.add({ key: 'k' }, task)
      return tasks.map(({ id }) => id)
    }
    await request.backgroundTasks.flush()
    return 'x'
  })
  app.get('/cancel', async request => {
    handles.push(request.backgroundTasks.add({ name: 'cancelled' }, task))
    backend.onCancel = async () => true
    await request.backgroundTasks.flush()
    return 'x'
  })
  app.get('/dedupe', async request => {
    backend.onStore = async () => ['another']
    handles.push(request.backgroundTasks.add({ name: 'twice', dedupe: 'd' }, task))
    return 'x'
  })
  const { url } = await listen(app)
  for (const path of ['/late', '/replace', '/cancel', '/dedupe']) await (await fetch(url + path)).text()
  await settled(app, { failed: 1, replaced: 1, stored: 2, dropped: 1 })
  t.equal(await handles[2]!.cancel(), true)
  t.match(checkLine(t, log, 'background task failed', ERROR, handles[0]!, 'req-1'), { err: { code: 'FST_BGT_STORE_FAILED' } })
  t.match(checkLine(t, log, 'background task could not be cancelled in the backend', ERROR, handles[1]!, 'req-2'), { err: { message: 'gone' } })
  checkLine(t, log, 'background task cancelled in the backend', DEBUG, handles[2]!, 'req-3')
  t.match(checkLine(t, log, 'background task dropped', DEBUG, handles[3]!, 'req-4'), { why: 'its dedupe id is taken by task another' })
})

/** The two ways to say under what name lines show the id of their request. */
const labels: Array<[option: string, fastifyOptions: () => FastifyServerOptions, skip: string | false]> = [
  ['logController', () => ({ logController: new LogController({ requestIdLogLabel: 'traceId' }) }), noLogController],
  ['requestIdLogLabel', () => ({ requestIdLogLabel: 'traceId' }), false]
]

for (const [option, fastifyOptions, skip] of labels) {
  test(`deliveries: lines have the id of the request that added the task, under the label that the application uses, by ${option}`, { skip }, async t => {
    const backend = new StubBackend()
    const failing = defineTask('failing', async (_payload, ctx) => {
      ctx.log.info('a line of its own')
      throw new Error('boom')
    })
    const { app, log } = await createApp(t, { tasks: [failing], backend }, fastifyOptions())
    await app.ready()
    const id = randomUUID()
    const task = { id, requestId: 'req-of-the-web' }
    await backend.deliver({ ...task, name: 'failing', label: 'its label', attempts: 2 })
    await backend.deliver({ ...task, name: 'failing', label: 'its label', attempts: 2 }, { attempt: 2 })
    await backend.deliver({ ...task, name: 'unknown', label: 'not here' })
    const line = (level: number, msg: string, name = 'its label') => t.match(log.filter(line => line.msg === msg), [{ level, traceId: 'req-of-the-web', task: { id, name, attempt: /[12]/ } }], msg)
    line(DEBUG, 'background task will be tried again')
    line(ERROR, 'background task failed')
    line(WARN, 'background task left to another worker', 'not here')
    t.match(ours(log, 'a line of its own'), [1, 2].map(attempt => ({ traceId: 'req-of-the-web', task: { id, name: 'its label', attempt } })))
  })
}

test('a version of Fastify without logController', t => {
  t.equal(requestIdLogLabel({ initialConfig: { requestIdLogLabel: 'traceId' } }), 'traceId')
  t.end()
})

for (const [what, maxCrashes, level, msg] of [
  ['', 1, WARN, 'BullMQ on Redis: a worker went away with a background task, which is handed out again'],
  [', too often', 0, ERROR, 'background task failed: too many workers went away with it'],
  [', of which nothing more can be learned', 1, WARN, 'BullMQ on Redis: a worker went away with a background task, which is handed out again']
] as const) {
  test(`a worker of BullMQ that goes away with a task${what}`, { skip: noRedis }, async t => {
    const { url } = await redis(t)
    const queue = `logs-${randomUUID()}`
    const { app, log, handle } = await webWithTask(t, url, queue)
    // A worker of BullMQ alone, which takes the task and is never heard of again.
    const { Queue, Worker } = await import('bullmq')
    const dead = new Worker(queue, () => new Promise(() => {}), {
      connection: { url, maxRetriesPerRequest: null }, lockDuration: 50, skipLockRenewal: true, skipStalledCheck: true
    })
    dead.on('error', () => {})
    t.teardown(() => dead.close(true))
    await once(dead, 'active')
    await dead.pause(true)
    const worker = Fastify({ requestIdLogLabel: 'traceId', logger: { level: 'debug', stream: { write: line => { log.push(JSON.parse(line)) } } } })
    t.teardown(() => worker.close())
    const task = defineTask('kept', async () => {})
    await worker.register(backgroundTasks, { tasks: [task], backend: bullmq({ connection: url, queue, stalledInterval: 50, maxCrashes }) })
    await worker.ready()
    const { getJob } = Queue.prototype
    if (what.endsWith('learned')) Queue.prototype.getJob = async () => { throw new Error('no answer') }
    t.teardown(() => { Queue.prototype.getJob = getJob })
    await until(msg, () => ours(log, msg)[0])
    if (Queue.prototype.getJob === getJob) checkLine(t, log, msg, level, handle, 'req-1', 'traceId')
    else t.match(ours(log, msg), [{ level, task: { id: handle.id } }])
    await app.close()
  })
}

test('a progress that BullMQ cannot store', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const queue = `logs-${randomUUID()}`
  const { log, handle } = await webWithTask(t, url, queue)
  const worker = Fastify({ logger: { level: 'debug', stream: { write: line => { log.push(JSON.parse(line)) } } } })
  t.teardown(() => worker.close())
  const msg = 'BullMQ on Redis: the progress of a background task could not be stored'
  const task = defineTask('kept', async (_payload: undefined, ctx) => {
    const client = new Redis(url)
    await client.del(`bull:${queue}:${ctx.id}`)
    await client.quit()
    ctx.progress(1)
    await until(msg, () => ours(log, msg)[0])
  })
  await worker.register(backgroundTasks, { tasks: [task], backend: bullmq({ connection: url, queue }) })
  await worker.ready()
  await until(msg, () => ours(log, msg)[0])
  checkLine(t, log, msg, WARN, handle)
})

/** An application that runs no tasks, with one in its queue that a request has added. */
async function webWithTask (t: Test, url: string, queue: string): Promise<{ app: FastifyInstance, log: LogLine[], handle: TaskHandle }> {
  const task = defineTask('kept', async () => {})
  const { app, log } = await createApp(t, { tasks: [task], worker: false, backend: bullmq({ connection: url, queue }) })
  let handle!: TaskHandle
  app.get('/', async request => {
    handle = request.backgroundTasks.add({ name: 'its label' }, task)
    return 'x'
  })
  const response = await app.inject('/')
  t.equal(response.statusCode, 200)
  return { app, log, handle }
}
