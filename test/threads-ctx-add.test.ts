import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../index'
import { createApp, settled, signal } from './support/server'
import { StubBackend } from './support/stub-backend'
import { isParent, telemetry } from './support/telemetry'
import { compile, folder, moduleFile, sources } from './support/threads'
import { until } from './support/until'

// `ctx.add` of a handler on a thread.

/** A module that knows the tasks `child` and `cloned`, as a module of the user's that imports the package. */
const module_ = (body: string) => `
import { createRequire } from 'node:module'
import { setImmediate as turn } from 'node:timers/promises'
const { defineTask } = createRequire(import.meta.url)(${JSON.stringify(join(folder, 'lib', 'task', 'define.js'))})
const child = defineTask('child')
const cloned = defineTask('cloned', async () => {})
const refusal = add => { try { add() } catch ({ code, message }) { return [code, message] } }
export default async (payload, ctx) => {
  ${body}
}`

const seen: unknown[] = []
const child = defineTask('child', async (payload: unknown, ctx) => { seen.push(payload, ctx.requestId) })

async function start (t: Test, body: string, options: BackgroundTasksOptions = {}) {
  seen.length = 0
  const parent = defineTask<undefined, any>('parent', moduleFile(t, module_(body)))
  const cloned = defineTask<unknown>('cloned', moduleFile(t, 'export default async payload => payload'), { local: true })
  const { app, log } = await createApp(t, { tasks: [child, cloned, parent], ...options })
  await app.ready()
  return { app, log, parent }
}

/** Runs the task `parent`, and returns what `find` knows of it in the end. */
async function run (t: Test, body: string, options?: BackgroundTasksOptions) {
  const { app, log, parent } = await start(t, body, options)
  const handle = app.backgroundTasks.add(parent)
  const { id } = handle
  await handle.settled()
  return { app, log, ...(await app.backgroundTasks.find(id))! as { state: string, result: any, error: Error & { code?: string } } }
}

test('adds a task by its name, with options; the handle has the id and the name', async t => {
  const { app, result } = await run(t, `
    const { add } = ctx
    const handles = [add(child, { n: 1 }), add({ name: 'renamed', delay: 3_600_000 }, child), add(cloned, new Map([[1, 2]]))]
    return [handles.map(({ id, name }) => ({ id, name })), refusal(() => handles[0].state), refusal(() => handles[0].cancel()), refusal(() => handles[0].settled())]`)
  const [handles, ...refusals] = result
  t.match(handles, [{ name: 'child' }, { name: 'renamed' }, { name: 'cloned' }])
  const finds = () => Promise.all(handles.map(({ id }: { id: string }) => app.backgroundTasks.find(id)))
  await settled(app, { completed: 3, pending: 1 })
  t.same(refusals, ['a read of its state', 'a call of cancel()', 'a call of settled()'].map(what => [
    'FST_BGT_NOT_ON_THREAD', `ctx.add on a worker thread takes a defined task, and returns its id and its name alone, received ${what}`
  ]))
  t.match(await finds(), [{ state: 'completed' }, { state: 'pending', name: 'renamed' }, { state: 'completed', result: new Map([[1, 2]]) }])
  t.same(seen, [{ n: 1 }, null])
})

test('what the thread can tell is refused there', async t => {
  const { app, result } = await run(t, `
    const stranger = defineTask('stranger')
    return [
      () => ctx.add(function send () {}), () => ctx.add('child'), () => ctx.add({}, 'child'), () => ctx.add(child, 1, 2), () => ctx.add(stranger), () => ctx.add(child, new Date()),
      () => ctx.add({ key: 'a' }, child), () => ctx.add({ atempts: 1 }, child), () => ctx.add(cloned, () => {})
    ].map(refusal)`)
  t.match(result, [
    ['FST_BGT_NOT_ON_THREAD', /received the function 'send'/], ['FST_BGT_INVALID_TASK'], ['FST_BGT_INVALID_TASK'], ['FST_BGT_INVALID_TASK', /2 arguments/], ['FST_BGT_UNKNOWN_TASK', /'stranger'/],
    ['FST_BGT_INVALID_PAYLOAD'], ['FST_BGT_INVALID_TASK_OPTION', /'key' must be left out in ctx.add/], ['FST_BGT_INVALID_TASK_OPTION', /'atempts'/],
    ['FST_BGT_UNCLONABLE', /^The payload of the background task 'cloned' must be/]
  ])
  await settled(app, { completed: 1 })
})

test('what the main thread refuses fails the attempt, with its code', async t => {
  const { app, state, error } = await run(t, 'ctx.add({ delay: 3_600_000 }, child, 1)\nctx.add(child, 2)\nctx.add(child, 3)\nreturn 5', { maxPending: 2 })
  t.equal(state, 'failed')
  t.match(error, { code: 'FST_BGT_OVERLOADED', message: /2 tasks are waiting or running/ })
  t.match(app.backgroundTasks.stats(), { accepted: 2, pending: 1, failed: 1 })
})

test('with a backend the attempt completes when its tasks are stored', async t => {
  const stored = signal()
  const backend = new StubBackend()
  await start(t, 'ctx.add(child, 1)\nctx.add(child)\nreturn 5', { backend, threads: { max: 1 } })
  backend.onStore = async tasks => {
    await stored.promise
    return tasks.map(({ id }) => id)
  }
  let end: unknown
  const delivered = backend.deliver({ name: 'parent', requestId: 'r' }).then(value => { end = value })
  await until('the write', () => backend.written.length === 1)
  t.equal(end, undefined)
  stored.resolve()
  await delivered
  t.match(end, { state: 'completed', result: 5 })
  t.match(backend.written.flat(), [{ name: 'child', payload: '1', requestId: 'r' }, { name: 'child', payload: null }])
  backend.onStore = async () => { throw new Error('the disk is full') }
  t.match(await backend.deliver({ name: 'parent' }), { state: 'failed', error: { code: 'FST_BGT_STORE_FAILED', message: /the disk is full/ } })
})

test('a thread that dies: what was accepted stays', async t => {
  const { app, state, error } = await run(t, 'ctx.add(child, 1)\nawait turn()\nprocess.exit(3)')
  t.equal(state, 'failed')
  t.equal(error.code, 'FST_BGT_THREAD_DIED')
  await settled(app, { completed: 1, failed: 1 })
  t.same(seen, [1, null])
})

test('after the end of the attempt it throws there, too', async t => {
  const { app, parent } = await start(t, `
    const late = globalThis.late
    globalThis.late = ctx
    if (late !== undefined) return refusal(() => late.add(child, 1))
    await new Promise(resolve => ctx.signal.addEventListener('abort', resolve))
    globalThis.refused = refusal(() => ctx.add(child, 2))
    globalThis.late = { add () { throw Object.assign(new Error(), { code: globalThis.refused[0] }) } }`, { threads: { max: 1 } })
  const timed = app.backgroundTasks.add({ timeout: 50 }, parent)
  t.equal(await timed.settled(), 'failed')
  for (const time of ['first', 'second']) {
    const handle = app.backgroundTasks.add(parent)
    const { id } = handle
    t.equal(await handle.settled(), 'completed')
    t.match((await app.backgroundTasks.find(id))!.result, ['FST_BGT_NO_ATTEMPT'], time)
  }
  await settled(app, { completed: 2, failed: 1 })
})

test('what crosses with the end of the attempt does not count', async t => {
  const { app, parent } = await start(t, "ctx.progress('begun')\nfor (;;) { ctx.add(child, 1); await turn() }", { maxPending: 100_000 })
  const handle = app.backgroundTasks.add(parent)
  await until('it adds', () => seen.length > 10)
  t.equal(await handle.cancel(), true)
  const { accepted } = app.backgroundTasks.stats()
  await until('the thread has ended', () => app.backgroundTasks.stats().abandoned === 0)
  t.equal(app.backgroundTasks.stats().accepted, accepted)
})

test('a payload that the main thread cannot read fails the attempt', async t => {
  const { state, error } = await run(t, `
    let deep = []
    for (let i = 0; i < 200_000; i++) deep = [deep]
    ctx.add(cloned, deep)`, { threads: { resourceLimits: { stackSizeMb: 200 } } })
  t.equal(state, 'failed')
  t.match(error, { code: 'FST_BGT_UNCLONABLE', message: /A payload that the background task 'parent' has added/ })
})

test('the span of the new task is a child of the span of the attempt', async t => {
  const { span } = telemetry(t)
  const { app } = await run(t, 'ctx.add(child, 1)')
  await settled(app, { completed: 2 })
  t.ok(isParent(span('process parent'), span('process child')))
})

test('with an SDK in the thread, it is a child of the span that is active there, which is a child of the attempt', async t => {
  compile(folder, sources.filter(file => file.startsWith('lib/observe/')))
  cpSync(join(__dirname, '../package.json'), join(folder, 'node_modules/fastify-background-tasks/package.json'))
  const { span } = telemetry(t)
  const parent = defineTask<undefined, any>('parent', moduleFile(t, `
import { createRequire } from 'node:module'
const require = createRequire(import.meta.url)
const { context, propagation, trace } = require('@opentelemetry/api')
const { AsyncLocalStorageContextManager } = require('@opentelemetry/context-async-hooks')
const { W3CTraceContextPropagator } = require('@opentelemetry/core')
const { BasicTracerProvider } = require('@opentelemetry/sdk-trace-base')
const { BackgroundTasksInstrumentation } = require(${JSON.stringify(join(folder, 'lib/observe/otel.js'))})
const { defineTask } = require(${JSON.stringify(join(folder, 'lib/task/define.js'))})
trace.setGlobalTracerProvider(new BasicTracerProvider())
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
propagation.setGlobalPropagator(new W3CTraceContextPropagator())
new BackgroundTasksInstrumentation()
const tracer = trace.getTracer('thread')
export default async (payload, ctx) => tracer.startActiveSpan('inside', span => {
  ctx.add(defineTask('child'), 1)
  span.end()
  return [span.parentSpanContext.spanId, span.spanContext().spanId]
})`))
  const { app } = await createApp(t, { tasks: [child, parent] })
  await app.ready()
  const handle = app.backgroundTasks.add(parent)
  const { id } = handle
  await settled(app, { completed: 2 })
  const [outer, inner] = (await app.backgroundTasks.find(id))!.result as string[]
  t.equal(outer, span('process parent').spanContext().spanId)
  t.equal(inner, span('process child').parentSpanContext?.spanId)
})
