import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TaskContext, type TaskHandle } from '../index'
import { addChannel } from '../lib/observe/channels'
import type { TaskMessage } from '../types/messages'
import { createDiApp } from './support/awilix'
import { createApp, listen, settled, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { isParent, telemetry } from './support/telemetry'
import { moduleFile } from './support/threads'
import { ends } from './support/until'

// `ctx.add`: tasks that a task adds, in the process.

/** Runs a handler as a task of the application, and returns the state in which it ended. */
async function run (t: Test, handler: (payload: undefined, ctx: TaskContext) => unknown, options: BackgroundTasksOptions = {}) {
  const parent = defineTask('parent', handler)
  const { app, log } = await createApp(t, { ...options, tasks: [...options.tasks ?? [], parent] })
  await app.ready()
  const handle = app.backgroundTasks.add(parent)
  const { id } = handle
  const state = await handle.settled()
  return { app, log, state, error: (await app.backgroundTasks.find(id))!.error as Error & { code?: string } }
}

test('a chain: each task adds the next one, which keeps the id and the logger of the request', async t => {
  const seen: unknown[] = []
  const third = defineTask('third', async (n: number, ctx) => {
    seen.push(n, ctx.requestId)
    ctx.log.info('third runs')
    ctx.add({ name: 'last' }, (...args: unknown[]) => { seen.push(...args) }, 'plain', 4)
  })
  const second = defineTask('second', async (n: number, ctx) => { ctx.add(third, n + 1) })
  const first = defineTask('first', async (n: number, { add }) => {
    const handle = add(second, n + 1)
    seen.push(handle.name, handle.state)
    t.equal(await handle.settled(), 'completed', 'it starts at once, and waits for no other')
  })
  const { app, log } = await createApp(t, { tasks: [first, second, third] })
  app.get('/', async request => {
    request.backgroundTasks.add(first, 1)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 4 })
  t.same(seen, ['second', 'pending', 3, 'req-1', 'plain', 4])
  t.match(log.find(({ msg }) => msg === 'third runs'), { reqId: 'req-1', task: { name: 'third' } })
})

test('options are those of add', async t => {
  let attempts = 0
  const child = defineTask('child', async () => { if (++attempts === 1) throw new Error('boom') })
  const waits = defineTask('waits', async (_payload: undefined, { signal }) => new Promise(resolve => { signal.addEventListener('abort', resolve) }))
  const handles: TaskHandle[] = []
  const { app, state } = await run(t, async (_payload, ctx) => {
    handles.push(ctx.add({ attempts: 2, name: 'renamed' }, child), ctx.add({ dedupe: 'one' }, waits), ctx.add({ dedupe: 'one' }, waits), ctx.add({ delay: 3_600_000 }, waits))
    handles.push(ctx.add({ timeout: 1 }, waits), ctx.add({ signal: true }, (signal: AbortSignal) => { signal.throwIfAborted() }))
  }, { tasks: [child, waits] })
  t.equal(state, 'completed')
  const [renamed, first, second, delayed, timed, plain] = handles as [TaskHandle, TaskHandle, TaskHandle, TaskHandle, TaskHandle, TaskHandle]
  t.equal(renamed.name, 'renamed')
  t.equal(await renamed.settled(), 'completed')
  t.equal(attempts, 2)
  t.equal(await second.settled(), 'dropped')
  t.equal(await timed.settled(), 'failed')
  t.equal(await plain.settled(), 'completed')
  t.equal(delayed.state, 'pending')
  for (const handle of [first, delayed]) t.equal(await handle.cancel(), true)
  await settled(app, { completed: 3, dropped: 1, failed: 1, cancelled: 2, retried: 1 })
})

test('runOn and key are refused; those of a definition have no effect', async t => {
  const child = defineTask('child', async () => {}, { runOn: 'failure', key: 'one' })
  const { app } = await run(t, async (_payload, ctx) => {
    t.throws(() => ctx.add({ runOn: 'always' } as object, child), { code: 'FST_BGT_INVALID_TASK_OPTION', message: "The task option 'runOn' must be left out in ctx.add, where no outcome decides, received 'always'" })
    t.throws(() => ctx.add({ key: 'a' } as object, child), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'key' must be left out in ctx.add, where no task replaces another/ })
    const hostile = { get runOn () { throw new Error('no') } } as object
    t.throws(() => ctx.add(hostile, child), { code: 'FST_BGT_INVALID_TASK_OPTION' })
    ctx.add(child)
    ctx.add(child)
  }, { tasks: [child] })
  await settled(app, { completed: 3 })
})

test('what add refuses is refused, at once', async t => {
  const child = defineTask('child', async (_payload: unknown) => {})
  const threaded = defineTask('threaded', moduleFile(t, 'export default () => {}'), { local: true, transfer: (bytes: Uint8Array) => [bytes] })
  const { app } = await run(t, async (_payload, ctx) => {
    const add = ctx.add as any
    for (const no of [[undefined], ['task'], [{}, 'task'], [{}], [Promise.resolve()], [function * () {}], [child, 1, 2]]) t.throws(() => add(...no), { code: 'FST_BGT_INVALID_TASK' })
    t.throws(() => add(defineTask('stranger', () => {})), { code: 'FST_BGT_UNKNOWN_TASK' })
    t.throws(() => add(child, new Date()), { code: 'FST_BGT_INVALID_PAYLOAD' })
    t.throws(() => add({ atempts: 1 }, child), { code: 'FST_BGT_INVALID_TASK_OPTION' })
    const bytes = new Uint8Array(8)
    t.throws(() => add({ key: 'a' }, threaded, bytes), { code: 'FST_BGT_INVALID_TASK_OPTION' })
    t.equal(bytes.length, 8, 'before a buffer has moved')
    ctx.add({ delay: 3_600_000 }, child, 1)
    t.throws(() => add(child), { code: 'FST_BGT_OVERLOADED' })
  }, { tasks: [child, threaded], maxPending: 2 })
  t.match(app.backgroundTasks.stats(), { accepted: 2, completed: 1, pending: 1 })
})

test('an error of ctx.add that the handler does not catch is the attempt\'s', async t => {
  const { state, error } = await run(t, (_payload, ctx) => { ctx.add(defineTask('stranger', () => {})) })
  t.equal(state, 'failed')
  t.equal(error.code, 'FST_BGT_UNKNOWN_TASK')
})

test('after the end of the attempt it throws, however that came about', async t => {
  const gate = signal()
  const contexts: TaskContext[] = []
  const child = defineTask('child', () => {})
  const ended = defineTask('ended', (_payload: undefined, ctx) => { contexts.push(ctx) })
  const endless = defineTask('endless', async (_payload: undefined, ctx) => {
    contexts.push(ctx)
    await gate.promise
    t.throws(() => ctx.add(child), { code: 'FST_BGT_NO_ATTEMPT' })
  })
  const { app } = await createApp(t, { tasks: [child, ended, endless] })
  await app.ready()
  await app.backgroundTasks.add(ended).settled()
  await app.backgroundTasks.add({ timeout: 1 }, endless).settled()
  const cancelled = app.backgroundTasks.add(endless)
  await turns()
  await cancelled.cancel()
  for (const [index, code] of [undefined, 'FST_BGT_TIMEOUT', 'FST_BGT_CANCELLED'].entries()) {
    try {
      contexts[index]!.add(child)
      t.fail('it has been added')
    } catch (error) {
      t.match(error, { code: 'FST_BGT_NO_ATTEMPT', message: /^ctx.add of the background task '\w+' received a call after the end of its attempt: await/ })
      t.equal(((error as Error).cause as { code?: string } | undefined)?.code, code)
    }
  }
  gate.resolve()
  await settled(app, { completed: 1, failed: 1, cancelled: 1 })
})

test('a definition that is called as a function adds nothing, and says so; it can be given an add', async t => {
  const child = defineTask('child', async (_n: number) => {})
  const parent = defineTask('parent', async (_payload: undefined, ctx) => { ctx.add(child, 1) })
  await t.rejects(async () => parent(undefined), { code: 'FST_BGT_NO_ATTEMPT', message: /'parent' received a call where there is no attempt/ })
  const { app } = await createApp(t, { tasks: [child], mode: 'capture' })
  await app.ready()
  await parent(undefined, { add: app.backgroundTasks.add.bind(app.backgroundTasks) })
  await app.backgroundTasks.idle()
  t.match(app.backgroundTasks.captured, [{ name: 'child', payload: 1, requestId: null }])
})

test('while the application closes a running task may add, and what it adds is waited for', async t => {
  const gate = signal()
  const seen: string[] = []
  const child = defineTask('child', async () => { seen.push('child') })
  const parent = defineTask('parent', async (_payload: undefined, ctx) => {
    await gate.promise
    ctx.add(child)
  })
  const { app } = await createApp(t, { tasks: [child, parent], closeTimeout: 60_000 })
  await app.ready()
  app.backgroundTasks.add(parent)
  await turns()
  const closing = app.close()
  await turns()
  gate.resolve()
  await ends('the close', closing)
  t.same(seen, ['child'])
  t.match(app.backgroundTasks.stats(), { completed: 2, dropped: 0 })
})

test('the channel of adds tells of it; a subscriber may cancel', async t => {
  const messages: TaskMessage[] = []
  const cancel = ({ name, task, requestId, attempt }: any) => {
    messages.push({ name, requestId, attempt } as TaskMessage)
    if (name === 'child') task.cancel()
  }
  addChannel.subscribe(cancel)
  t.teardown(() => addChannel.unsubscribe(cancel))
  const child = defineTask('child', async () => { t.fail('it runs') })
  const backend = new StubBackend()
  const parent = defineTask('parent', async (_payload: undefined, ctx) => { ctx.add(child) }, { local: true })
  for (const options of [{}, { backend }]) {
    const { app } = await createApp(t, { ...options, tasks: [child, parent] })
    await app.ready()
    app.backgroundTasks.add(parent)
    await settled(app, { completed: 1, cancelled: 1 })
  }
  t.same(backend.written, [])
  t.match(messages, [{ name: 'parent', attempt: 0 }, { name: 'child', requestId: null, attempt: 0 }, { name: 'parent' }, { name: 'child' }])
})

test('the span of the new task is a child of the span of the attempt', async t => {
  const { span } = telemetry(t)
  const child = defineTask('child', async () => {})
  const { app } = await run(t, async (_payload, ctx) => { ctx.add(child) }, { tasks: [child] })
  await settled(app, { completed: 2 })
  t.ok(isParent(span('process parent'), span('process child')))
})

test('with onFailure stop, a failed task drops nothing that it has added', async t => {
  const child = defineTask('child', async () => {})
  const { app } = await run(t, async (_payload, ctx) => {
    ctx.add(child)
    throw new Error('boom')
  }, { tasks: [child], onFailure: 'stop' })
  await settled(app, { completed: 1, failed: 1 })
})

test('a DI scope of its own has the collector of the application', async t => {
  const seen: unknown[] = []
  const child = defineTask('child', async (_payload: undefined, ctx) => { seen.push((ctx.diScope as any).resolve('backgroundTasks') === app.backgroundTasks) })
  const parent = defineTask('parent', async (_payload: undefined, ctx) => { ctx.add(child) })
  const { app } = await createDiApp(t, { tasks: [child, parent] })
  app.get('/', async request => {
    request.backgroundTasks.add(parent)
    return 'x'
  })
  await app.inject('/')
  await settled(app, { completed: 2 })
  t.same(seen, [true])
})
