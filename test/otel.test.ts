import { context, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import Fastify from 'fastify'
import { randomUUID } from 'node:crypto'
import { tracingChannel } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions, type TaskHandle } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { BackgroundTasksInstrumentation } from '../lib/observe/otel'
import { currentCarrier, withCarrier } from '../lib/observe/propagation'
import { until } from './support/until'
import { listen, settled, signal } from './support/server'
import { noRedis, redis } from './support/services'
import { StubBackend } from './support/stub-backend'
import { isParent, telemetry, type Telemetry } from './support/telemetry'

/** An application that @fastify/otel instruments, with the plugin. */
async function tracedApp (t: Test, { fastifyOtel }: Telemetry, options: BackgroundTasksOptions = {}) {
  const app = Fastify({ forceCloseConnections: true, logger: { level: 'silent' } })
  t.teardown(() => app.close())
  await app.register(fastifyOtel.plugin())
  await app.register(backgroundTasks, options)
  return app
}

const ended = ({ endTime: [seconds, nanos] }: ReadableSpan) => seconds * 1e3 + nanos / 1e6
const idOf = (span: ReadableSpan) => span.spanContext().spanId

test('a span per attempt, linked to the span that added the task; the request\'s span ends on time', async t => {
  const telemetry_ = telemetry(t)
  const { span, spans, tracer } = telemetry_
  const app = await tracedApp(t, telemetry_)
  const gate = signal()
  let added = ''
  app.get('/', async function handler (request) {
    added = trace.getActiveSpan()!.spanContext().spanId
    const handle = request.backgroundTasks.add(async function sendMail () {
      await tracer.startActiveSpan('smtp', async span => {
        await gate.promise
        span.end()
      })
    })
    return { id: handle.id }
  })
  const { url } = await listen(app)
  const { id } = await (await fetch(url)).json() as { id: string }
  const request = await until('the request has ended', () => spans('request')[0])
  t.same(spans('process sendMail'), [], 'the task has not ended')
  await sleep(20)
  gate.resolve()
  await settled(app, { completed: 1 })

  const attempt = span('process sendMail')
  t.equal(attempt.kind, SpanKind.CONSUMER)
  t.same(attempt.attributes, {
    'messaging.system': 'fastify-background-tasks',
    'messaging.operation.name': 'process',
    'messaging.operation.type': 'process',
    'messaging.destination.name': 'sendMail',
    'messaging.message.id': id,
    'messaging.message.conversation_id': 'req-1',
    'background_task.attempt': 1,
    'background_task.outcome': 'completed'
  })
  t.equal(attempt.status.code, SpanStatusCode.UNSET)
  t.same(attempt.links.map(({ context }) => context.spanId), [added])
  t.equal(attempt.links[0]!.context.traceId, request.spanContext().traceId)
  t.equal(attempt.spanContext().traceId, request.spanContext().traceId, 'one trace')
  t.ok(isParent(attempt, span('smtp')))
  t.ok(ended(attempt) - ended(request) >= 15, 'the request did not wait')
  const handler = spans().find(span => idOf(span) === added)!
  t.match(handler.events, [{ name: 'background task added', attributes: { 'messaging.destination.name': 'sendMail', 'messaging.message.id': id } }])
})

test('each attempt has its span; exceptions and their types are recorded', async t => {
  const telemetry_ = telemetry(t)
  const app = await tracedApp(t, telemetry_)
  const refused = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
  const hostile = new Proxy(new Error('x'), { get: () => { throw new Error('cannot be read') } })
  app.get('/', async function handler (request) {
    let attempts = 0
    request.backgroundTasks.add({ name: 'flaky', attempts: 3, timeout: 60_000 }, async () => {
      if (++attempts === 1) throw refused
      if (attempts === 2) throw new RangeError('too far')
    })
    request.backgroundTasks.add({ name: 'text' }, () => { throw 'a text' }) // eslint-disable-line no-throw-literal -- what is no error is what is tested
    request.backgroundTasks.add({ name: 'hostile' }, async () => { throw hostile })
    request.backgroundTasks.add({ name: 'stackless' }, () => { throw Object.assign(new Error('no stack'), { stack: undefined }) })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1, failed: 3, retried: 2 })
  const attempts = telemetry_.spans('process flaky')
  t.same(attempts.map(({ attributes, status }) => [
    attributes['background_task.attempt'], attributes['background_task.outcome'], attributes['error.type'], status.code, status.message
  ]), [
    [1, 'retried', 'ECONNREFUSED', SpanStatusCode.ERROR, 'connect ECONNREFUSED'],
    [2, 'retried', 'RangeError', SpanStatusCode.ERROR, 'too far'],
    [3, 'completed', undefined, SpanStatusCode.UNSET, undefined]
  ])
  t.match(attempts[0]!.events, [{ name: 'exception', attributes: { 'exception.type': 'ECONNREFUSED', 'exception.message': 'connect ECONNREFUSED', 'exception.stacktrace': /at / } }])
  t.equal(new Set(attempts.map(span => span.links[0]!.context.spanId)).size, 1)
  t.match(telemetry_.span('process text'), { status: { message: "'a text'" }, attributes: { 'error.type': '_OTHER', 'background_task.outcome': 'failed' } })
  t.match(telemetry_.span('process hostile'), { status: { message: 'an error that cannot be shown' } })
  t.match(telemetry_.span('process stackless'), { status: { message: 'no stack' } })
})

test('separateTraces: a trace for each attempt, which the link alone connects', async t => {
  const telemetry_ = telemetry(t, { separateTraces: true })
  t.same(telemetry_.instrumentation.getConfig(), { separateTraces: true })
  const app = await tracedApp(t, telemetry_)
  app.get('/', async function handler (request) {
    request.backgroundTasks.add(function task () {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  const attempt = telemetry_.span('process task')
  t.equal(attempt.parentSpanContext, undefined)
  const request = await until('the request', () => telemetry_.spans('request')[0])
  t.not(attempt.spanContext().traceId, request.spanContext().traceId)
  t.equal(attempt.links[0]!.context.traceId, request.spanContext().traceId)
})

test('what never runs is seen too', async t => {
  const telemetry_ = telemetry(t)
  const app = await tracedApp(t, telemetry_)
  app.get('/', async function handler (request) {
    request.backgroundTasks.add({ name: 'a', runOn: 'failure' }, () => {})
    request.backgroundTasks.add({ name: 'b', key: 'k' }, () => {})
    request.backgroundTasks.add({ name: 'c', key: 'k' }, () => {})
    request.backgroundTasks.add({ name: 'd', runOn: () => { throw new Error('in the predicate') } }, () => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { dropped: 1, replaced: 1, completed: 1, failed: 1 })
  const { span } = telemetry_
  t.match(span('dropped a').attributes, { 'messaging.operation.type': 'settle', 'background_task.reason': "runOn: 'failure'", 'background_task.outcome': 'dropped' })
  t.match(span('replaced b').attributes, { 'background_task.outcome': 'replaced' })
  t.match(span('failed d'), { status: { code: SpanStatusCode.ERROR, message: 'in the predicate' }, attributes: { 'error.type': 'Error' } })
  const request = await until('the request', () => telemetry_.spans('request')[0])
  for (const name of ['dropped a', 'replaced b', 'failed d']) t.equal(span(name).spanContext().traceId, request.spanContext().traceId)
})

test('metrics: added, queue time, run time, in flight, retries, abandoned, outcomes', async t => {
  const telemetry_ = telemetry(t)
  const { metric } = telemetry_
  const app = await tracedApp(t, telemetry_)
  const gate = signal()
  const of = (name: string, more = {}) => ({ 'messaging.destination.name': name, ...more })
  const run = (name: string, more = {}) => of(name, { 'messaging.system': 'fastify-background-tasks', 'messaging.operation.name': 'process', ...more })
  app.get('/', async function handler (request) {
    for (let i = 0; i < 3; i++) request.backgroundTasks.add(function quick () {})
    request.backgroundTasks.add({ name: 'late', delay: 30 }, () => {})
    request.backgroundTasks.add({ name: 'never', runOn: 'failure' }, () => {})
    let attempts = 0
    request.backgroundTasks.add({ name: 'flaky', attempts: 2 }, () => { if (++attempts === 1) throw new TypeError('boom') })
    request.backgroundTasks.add({ name: 'slow', timeout: 100 }, () => gate.promise)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 5, dropped: 1, failed: 1, retried: 1, abandoned: 1 })
  t.equal(await metric('background_tasks.in_flight', of('slow')), 1, 'its function still runs')
  t.equal(await metric('background_tasks.in_flight', of('quick')), 0)
  t.equal(await metric('background_tasks.abandoned', of('slow')), 1)
  gate.resolve()
  await settled(app, { completed: 5, dropped: 1, failed: 1, retried: 1 })
  t.equal(await metric('background_tasks.in_flight', of('slow')), 0)
  t.equal(await metric('background_tasks.added', of('quick')), 3)
  t.equal(await metric('background_tasks.retries', of('flaky')), 1)
  t.equal(await metric('background_tasks.settled', of('quick', { 'background_task.state': 'completed' })), 3)
  t.equal(await metric('background_tasks.settled', of('never', { 'background_task.state': 'dropped' })), 1)
  t.equal(await metric('background_tasks.settled', of('slow', { 'background_task.state': 'failed' })), 1)
  t.match(await metric('background_tasks.queue.duration', of('quick')), { count: 3 })
  const late = await metric('background_tasks.queue.duration', of('late')) as { count: number, sum: number, buckets: { boundaries: number[] } }
  t.ok(late.count === 1 && late.sum >= 0.029 && late.sum < 10, 'seconds')
  t.equal(late.buckets.boundaries[0], 0.005)
  t.match(await metric('background_tasks.queue.duration', of('flaky')), { count: 1 })
  t.match(await metric('messaging.process.duration', run('flaky')), { count: 1 })
  t.match(await metric('messaging.process.duration', run('flaky', { 'error.type': 'TypeError' })), { count: 1 })
  const slow = await metric('messaging.process.duration', run('slow', { 'error.type': 'FST_BGT_TIMEOUT' })) as { sum: number }
  t.ok(slow.sum >= 0.08 && slow.sum < 10, 'a timer is early by what its turn of the loop had taken')
  t.match(telemetry_.span('process slow').events.map(({ name }) => name), ['background task abandoned', 'exception'])
  t.same(await telemetry_.attributeKeys(), [
    'background_task.state', 'error.type', 'messaging.destination.name', 'messaging.operation.name', 'messaging.system'
  ], 'nothing that grows with the number of tasks')
})

test('from web to worker through Redis, the trace shows one story', { skip: noRedis }, async t => {
  const service = await redis(t)
  const telemetry_ = telemetry(t)
  const { span, spans, tracer, metric } = telemetry_
  const work = defineTask('resize', async (_payload: { image: string }, ctx) => {
    const span = tracer.startSpan('disk')
    await sleep(5)
    span.end()
    if (ctx.attempt === 1) throw new Error('the disk is full')
  }, { attempts: 2 })
  const queue = `otel-${randomUUID()}`
  const options = () => ({ tasks: [work], backend: bullmq({ connection: service.url, queue }) })
  const web = await tracedApp(t, telemetry_, { ...options(), worker: false })
  let added = ''
  web.post('/', async function handler (request, reply) {
    added = trace.getActiveSpan()!.spanContext().spanId
    reply.code(202)
    return { id: request.backgroundTasks.add(work, { image: 'a.png' }).id }
  })
  const { url } = await listen(web)
  const response = await fetch(url, { method: 'POST' })
  t.equal(response.status, 202)
  const { id } = await response.json() as { id: string }
  const request = await until('the request has ended', () => spans('request')[0])
  t.same(spans('process resize'), [], 'nobody has begun it')
  const { traceId } = request.spanContext()
  t.match(span('send resize'), { kind: SpanKind.PRODUCER, status: { code: SpanStatusCode.UNSET } })
  t.same(span('send resize').attributes, {
    'messaging.system': 'fastify-background-tasks',
    'messaging.operation.name': 'send',
    'messaging.operation.type': 'send',
    'messaging.destination.name': 'resize',
    'messaging.message.id': id,
    'messaging.message.conversation_id': 'req-1',
    'background_task.outcome': 'stored'
  })
  t.equal(span('send resize').spanContext().traceId, traceId)
  t.equal(span('send resize').parentSpanContext!.spanId, added)

  const worker = Fastify({ logger: { level: 'silent' } })
  t.teardown(() => worker.close())
  await worker.register(backgroundTasks, options())
  await worker.ready()
  const attempts = await until('both attempts', () => spans('process resize').length === 2 && spans('process resize'))
  t.same(attempts.map(({ attributes }) => [attributes['background_task.attempt'], attributes['background_task.outcome']]), [[1, 'retried'], [2, 'completed']])
  for (const attempt of attempts) {
    t.equal(attempt.spanContext().traceId, traceId)
    t.ok(isParent(span('send resize'), attempt))
    t.same(attempt.links.map(({ context }) => context.spanId), [idOf(span('send resize'))])
    t.match(attempt.attributes, { 'messaging.message.id': id, 'messaging.message.conversation_id': 'req-1' })
    t.equal(spans('disk').filter(disk => isParent(attempt, disk)).length, 1)
  }
  t.match(await metric('background_tasks.queue.duration', { 'messaging.destination.name': 'resize' }), { count: 1 })
})

test('a hand-over that fails, and one that finds its task replaced', async t => {
  const telemetry_ = telemetry(t)
  const task = defineTask('kept', async () => {})
  const backend = new StubBackend()
  const app = await tracedApp(t, telemetry_, { tasks: [task], backend })
  let refuse = true
  backend.onStore = async tasks => {
    if (refuse) throw new Error('full')
    return tasks.map(({ id }) => id)
  }
  app.get('/', async function handler (request) {
    request.backgroundTasks.add(task)
    await request.backgroundTasks.flush().catch(() => {})
    refuse = false
    return 'x'
  })
  app.get('/dedupe', async function handler (request) {
    backend.onStore = async () => ['another']
    request.backgroundTasks.add({ dedupe: 'same' }, task)
    return 'x'
  })
  for (const path of ['/replace', '/refuse']) {
    app.get(path, async function handler (request) {
      request.backgroundTasks.add({ key: 'k' }, task)
      backend.onStore = async tasks => {
        request.backgroundTasks.add({ key: 'k', runOn: 'failure' }, task)
        if (path === '/refuse') throw new Error('full')
        return tasks.map(({ id }) => id)
      }
      await request.backgroundTasks.flush().catch(() => {})
      return 'x'
    })
  }
  const { url } = await listen(app)
  const sent = () => telemetry_.spans('send kept').map(({ status: { code }, attributes, events }) => [
    code === SpanStatusCode.ERROR, attributes['error.type'], attributes['background_task.outcome'], events.length
  ])
  t.equal((await fetch(url)).status, 200)
  const failed = [true, 'FST_BGT_STORE_FAILED', undefined, 1]
  t.same(sent(), [failed, [false, undefined, 'stored', 0]])
  t.match(telemetry_.spans('send kept')[0]!.status.message, /full/)
  t.same(telemetry_.spans('stored kept'), [], 'its end is that of the span that sent it')
  t.equal((await fetch(`${url}/dedupe`)).status, 200)
  t.same(sent()[2], [false, undefined, 'dropped', 0])
  t.equal(telemetry_.span('dropped kept').attributes['background_task.reason'], 'its dedupe id is taken by task another')
  t.equal((await fetch(`${url}/replace`)).status, 200)
  t.same(sent()[3], [false, undefined, 'replaced', 0])
  t.equal((await fetch(`${url}/refuse`)).status, 200)
  t.same(sent()[4], [false, undefined, 'replaced', 0], 'it was replaced before it was refused')
  t.equal(telemetry_.spans('replaced kept').length, 2)
})

for (const separateTraces of [false, true]) {
  test(`a stored task goes on from the span that sent it, separateTraces: ${separateTraces}`, async t => {
    const telemetry_ = telemetry(t, { separateTraces })
    const task = defineTask('kept', async () => {})
    const backend = new StubBackend()
    const app = await tracedApp(t, telemetry_, { tasks: [task], backend })
    app.get('/', async function handler (request) {
      request.backgroundTasks.add(task)
      return 'x'
    })
    const { url } = await listen(app)
    await fetch(url)
    const stored = backend.written[0]![0]!
    const send = telemetry_.span('send kept')
    const { traceId, spanId } = send.spanContext()
    t.equal(stored.carrier!.traceparent, `00-${traceId}-${spanId}-01`)
    t.same(await backend.deliver(stored), { state: 'completed', result: undefined })
    const attempt = telemetry_.span('process kept')
    t.same(attempt.links.map(({ context }) => context.spanId), [spanId])
    t.equal(isParent(send, attempt), !separateTraces)
    t.equal(attempt.spanContext().traceId === traceId, !separateTraces)
  })
}

test('the carrier of an attempt goes to another thread or process, and is active there', async t => {
  const telemetry_ = telemetry(t)
  const { tracer, span } = telemetry_
  const app = await tracedApp(t, telemetry_)
  app.backgroundTasks.add(async function dispatch () {
    const carrier = currentCarrier()
    t.match(carrier, { traceparent: /^00-[\da-f]{32}-[\da-f]{16}-01$/ })
    // A thread gets the part that can be cloned.
    const sent = structuredClone(carrier)
    await context.with(ROOT_CONTEXT, async () => {
      t.equal(trace.getActiveSpan(), undefined)
      const result = withCarrier(sent, () => {
        tracer.startSpan('in the thread').end()
        return 'its result'
      })
      t.equal(result, 'its result')
    })
  })
  await settled(app, { completed: 1 })
  t.ok(isParent(span('process dispatch'), span('in the thread')))
  telemetry_.instrumentation.disable()
  t.equal(currentCarrier(), null)
  t.equal(withCarrier({ traceparent: 'x' }, () => 1), 1)
  t.equal(withCarrier(null, () => 2), 2)
})

test('a subscriber to the start of a run that calls the task off', async t => {
  const telemetry_ = telemetry(t)
  const app = await tracedApp(t, telemetry_)
  const { start } = tracingChannel('fastify-background-tasks.run')
  const onStart = (message: unknown) => { (message as { task: TaskHandle }).task.cancel() }
  start.subscribe(onStart)
  t.teardown(() => start.unsubscribe(onStart))
  const aborted = signal()
  app.backgroundTasks.add({ signal: true, name: 'cancelled' }, async (signal: AbortSignal) => { if (signal.aborted) aborted.resolve() })
  await aborted.promise
  await settled(app, { cancelled: 1 })
  t.equal(telemetry_.span('process cancelled').attributes['background_task.outcome'], 'cancelled')
})

test('enabled while tasks are on their way, and disabled again', async t => {
  const telemetry_ = telemetry(t, { enabled: false })
  const { instrumentation, spans, span, metric } = telemetry_
  instrumentation.disable()
  const task = defineTask('earlier', async () => {})
  const gate = signal()
  const backend = new StubBackend()
  const app = Fastify({ logger: { level: 'silent' } })
  t.teardown(() => app.close())
  await app.register(backgroundTasks, { tasks: [task], backend })
  let attempts = 0
  const settle = [
    app.backgroundTasks.add({ name: 'running', attempts: 2 }, async () => {
      await gate.promise
      if (++attempts === 1) throw new Error('boom')
    }),
    app.backgroundTasks.add({ name: 'timed', timeout: 60_000, signal: true }, () => gate.promise)
  ]
  const delayed = app.backgroundTasks.add({ name: 'delayed', delay: 60_000 }, () => {})
  app.get('/', async request => {
    request.backgroundTasks.add(task)
    instrumentation.enable()
    instrumentation.enable()
    return 'x'
  })
  await until('both run', () => app.backgroundTasks.stats().running === 2)
  t.equal((await app.inject('/')).statusCode, 200)
  t.same(backend.written[0]![0]!.carrier, {}, 'it has no trace')
  await delayed.cancel()
  gate.resolve()
  for (const handle of settle) await handle.settled()
  t.same(spans().map(({ name }) => name), ['process running'], 'the attempt that began afterwards')
  t.equal(span('process running').attributes['background_task.attempt'], 2)
  t.equal(await metric('background_tasks.in_flight', { 'messaging.destination.name': 'running' }), 0)
  t.equal(await metric('background_tasks.settled', { 'messaging.destination.name': 'timed', 'background_task.state': 'completed' }), 1)

  // Another instrumentation has taken its place: it does not take that away.
  const other = new BackgroundTasksInstrumentation()
  instrumentation.disable()
  instrumentation.disable()
  t.not(currentCarrier(), null)
  other.setConfig({ separateTraces: true })
  const handle = app.backgroundTasks.add({ name: 'global' }, () => {})
  await handle.settled()
  t.equal(spans('process global').length, 1, 'by the global provider')
  other.disable()
  t.equal(currentCarrier(), null)
  app.backgroundTasks.add({ name: 'unseen' }, () => {})
  await settled(app, { completed: 4, cancelled: 1, retried: 1, stored: 1 })
  t.same(spans('process unseen'), [])
})
