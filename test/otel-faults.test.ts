import { context, diag, propagation, type Context } from '@opentelemetry/api'
import { AlwaysOnSampler, BasicTracerProvider, type Sampler, type SpanProcessor } from '@opentelemetry/sdk-trace-base'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { currentCarrier, withCarrier } from '../lib/propagation'
import { createApp, settled } from './support/server'
import { StubBackend } from './support/stub-backend'
import { telemetry } from './support/telemetry'

const broken = () => { throw new Error('the telemetry is broken') }

/** Collects what the log of OpenTelemetry is told. */
function complaints (t: Test): unknown[][] {
  const told: unknown[][] = []
  const ignore = () => {}
  diag.setLogger({ error: (...args) => { told.push(args) }, warn: ignore, info: ignore, debug: ignore, verbose: ignore })
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
