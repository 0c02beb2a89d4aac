import { context, diag, propagation, type Context } from '@opentelemetry/api'
import { AggregationTemporality, InMemoryMetricExporter, MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics'
import { AlwaysOnSampler, BasicTracerProvider, type Sampler, type SpanProcessor } from '@opentelemetry/sdk-trace-base'
import { runInNewContext } from 'node:vm'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { currentCarrier, withCarrier } from '../lib/observe/propagation'
import { createApp, settled, signal } from './support/server'
import { StubBackend } from './support/stub-backend'
import { isParent, telemetry } from './support/telemetry'

const broken = () => { throw new Error('the telemetry is broken') }

/** Collects what the log of OpenTelemetry is told. */
function complaints (t: Test): unknown[][] {
  const told: unknown[][] = []
  const ignore = () => {}
  const tell = (...args: unknown[]) => { told.push(args) }
  diag.setLogger({ error: tell, warn: tell, info: ignore, debug: ignore, verbose: ignore })
  t.teardown(() => diag.disable())
  return told
}

/** A task that fails once and one that is stored, with what the telemetry has left of them. */
async function runTasks (t: Test) {
  const stored = defineTask('stored', async () => {})
  const backend = new StubBackend()
  const { app } = await createApp(t, { tasks: [stored], backend })
  app.get('/', async request => {
    let attempts = 0
    request.backgroundTasks.add({ name: 'flaky', attempts: 2 }, async () => {
      const carrier = currentCarrier()
      await withCarrier(carrier, async () => { if (++attempts === 1) throw new Error('boom') })
    })
    request.backgroundTasks.add(stored)
    request.backgroundTasks.add({ name: 'dropped', runOn: 'failure' }, () => {})
    return 'x'
  })
  const { statusCode } = await app.inject('/')
  await backend.deliver(backend.written[0]![0]!)
  await settled(app, { completed: 2, retried: 1, stored: 1, dropped: 1 })
  return { statusCode, carrier: backend.written[0]![0]!.carrier }
}

const processor = (faults: Partial<SpanProcessor>): SpanProcessor => ({
  onStart: () => {}, onEnd: () => {}, forceFlush: async () => {}, shutdown: async () => {}, ...faults
})

for (const [what, config] of Object.entries<{ spanProcessors?: SpanProcessor[], sampler?: Sampler }>({
  'a span processor that throws at the start': { spanProcessors: [processor({ onStart: broken })] },
  'a span processor that throws at the end': { spanProcessors: [processor({ onEnd: broken })] },
  'a sampler that throws': { sampler: { shouldSample: broken, toString: () => 'broken' } }
})) {
  test(`${what} harms no task, and no other telemetry`, async t => {
    const { instrumentation, metric } = telemetry(t)
    const told = complaints(t)
    instrumentation.setTracerProvider(new BasicTracerProvider({ sampler: new AlwaysOnSampler(), ...config }))
    const { statusCode, carrier } = await runTasks(t)
    t.equal(statusCode, 200)
    t.match(carrier, { 'fastify-background-tasks-added': /^\d+$/ })
    t.match(told[0], [/^fastify-background-tasks: /, { message: 'the telemetry is broken' }])
    const of = (name: string) => ({ 'messaging.destination.name': name })
    for (const name of ['flaky', 'stored']) t.equal(await metric('background_tasks.in_flight', of(name)), 0)
    t.equal(await metric('background_tasks.settled', { ...of('flaky'), 'background_task.state': 'completed' }), 1)
    t.match(await metric('background_tasks.queue.duration', of('flaky')), { count: 1 })
  })
}

test('a task that is added when the span of its request has ended: that is left as it is', async t => {
  const { span, tracer } = telemetry(t)
  const told = complaints(t)
  const { app } = await createApp(t)
  await app.ready()
  const handle = tracer.startActiveSpan('request', request => {
    request.end()
    return app.backgroundTasks.add({ name: 'late' }, () => {})
  })
  t.equal(await handle.settled(), 'completed')
  t.same(told, [])
  t.same(span('request').events, [])
  t.ok(isParent(span('request'), span('process late')))
})

test('a propagator that throws', async t => {
  const { span } = telemetry(t)
  const told = complaints(t)
  propagation.disable()
  propagation.setGlobalPropagator({ inject: broken, extract: broken, fields: () => [] })
  t.equal((await runTasks(t)).statusCode, 200)
  t.match(told[0], [/^fastify-background-tasks: /, { message: 'the telemetry is broken' }])
  t.ok(span('process stored'), 'only its trace is another one')
})

test('a context manager, and a log of OpenTelemetry, that throw: the function is called once', async t => {
  telemetry(t)
  const ignore = () => {}
  diag.setLogger({ error: broken, warn: ignore, info: ignore, debug: ignore, verbose: ignore })
  t.teardown(() => diag.disable())
  t.equal((await runTasks(t)).statusCode, 200)
  context.disable()
  let after = false
  context.setGlobalContextManager({
    active: broken,
    with (_context: Context, fn: any, thisArg: any, ...args: any[]): any {
      if (after) fn.apply(thisArg, args)
      return broken()
    },
    bind: (_context: Context, target: any) => target,
    enable () { return this },
    disable () { return this }
  })
  for (after of [false, true]) {
    let calls = 0
    t.equal(withCarrier({}, () => ++calls), 1)
    t.equal(calls, 1)
    t.throws(() => withCarrier({}, () => {
      calls++
      throw new RangeError('its own')
    }), new RangeError('its own'))
    t.equal(calls, 2)
  }
  t.equal((await runTasks(t)).statusCode, 200)
})

test('disabled while tasks run: none of them is in flight any more, and their spans end', async t => {
  const { instrumentation, metric, span, spans } = telemetry(t)
  const told = complaints(t)
  const task = defineTask('on its way', async () => {})
  const backend = new StubBackend()
  const { app } = await createApp(t, { tasks: [task], backend })
  const gate = signal()
  const store = signal()
  backend.onStore = async tasks => {
    store.resolve()
    await gate.promise
    return tasks.map(({ id }) => id)
  }
  const inFlight = (name: string) => metric('background_tasks.in_flight', { 'messaging.destination.name': name })
  await app.ready()
  const running = app.backgroundTasks.add({ name: 'running' }, () => gate.promise)
  const timed = app.backgroundTasks.add({ name: 'abandoned', timeout: 10 }, () => gate.promise)
  const stored = app.backgroundTasks.add(task)
  t.equal(await timed.settled(), 'failed')
  await store.promise
  t.same([await inFlight('running'), await inFlight('abandoned')], [1, 1])
  instrumentation.disable()
  t.same([await inFlight('running'), await inFlight('abandoned')], [0, 0])
  t.same(spans().map(({ name }) => name).sort(), ['process abandoned', 'process running', 'send on its way'])
  t.equal(span('process running').attributes['background_task.outcome'], undefined)
  // Spans that were open then are not its own any more.
  instrumentation.enable()
  gate.resolve()
  t.same(await Promise.all([running.settled(), stored.settled()]), ['completed', 'stored'])
  t.same([await inFlight('running'), await inFlight('abandoned')], [0, 0])
  t.equal(spans().length, 3)
  t.same(told, [])
})

test('another meter provider while tasks run: each is taken off where it was counted', async t => {
  const { instrumentation, metric } = telemetry(t)
  const { app } = await createApp(t)
  const gate = signal()
  const begun = signal()
  await app.ready()
  const handle = app.backgroundTasks.add({ name: 'running' }, () => {
    begun.resolve()
    return gate.promise
  })
  await begun.promise
  const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })
  const meterProvider = new MeterProvider({ readers: [reader] })
  t.teardown(() => meterProvider.shutdown())
  instrumentation.setMeterProvider(meterProvider)
  gate.resolve()
  t.equal(await handle.settled(), 'completed')
  t.equal(await metric('background_tasks.in_flight', { 'messaging.destination.name': 'running' }), 0)
  const { resourceMetrics } = await reader.collect()
  const names = resourceMetrics.scopeMetrics.flatMap(({ metrics }) => metrics.map(({ descriptor }) => descriptor.name))
  t.ok(names.includes('background_tasks.settled'))
  t.notOk(names.includes('background_tasks.in_flight'), 'not less than none')
})

test('an error of another realm is an error', async t => {
  const { span } = telemetry(t)
  const { app } = await createApp(t)
  await app.ready()
  const handle = app.backgroundTasks.add({ name: 'vm' }, () => runInNewContext('throw new RangeError("too far")'))
  t.equal(await handle.settled(), 'failed')
  t.match(span('process vm'), { attributes: { 'error.type': 'RangeError' }, status: { message: 'too far' } })
})
