import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TaskContext, type TaskHandle } from '../index'
import { createApp, settled, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { isParent, telemetry } from './support/telemetry'
import { ends, until } from './support/until'
import type { StoredTask } from '../types/backend'

// `ctx.add` with a backend: the task is stored before the attempt completes. The store is the test.

const child = defineTask('child', async (_n: number) => {})

/** An application whose task `parent` is this handler. */
async function start (t: Test, handler: (payload: undefined, ctx: TaskContext) => unknown, options: BackgroundTasksOptions = {}) {
  const backend = new StubBackend()
  const parent = defineTask('parent', handler)
  const { app, log } = await createApp(t, { backend, tasks: [child, parent], ...options })
  await app.ready()
  return { app, log, backend, deliver: () => backend.deliver({ name: 'parent', requestId: 'req-of-another-process', attempts: 2 }) }
}

test('the attempt completes when the backend has the task, and not before', async t => {
  const stored = signal<string[]>()
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => {
    ctx.add({ delay: 5 }, child, 1)
    return 'done'
  })
  backend.onStore = async () => stored.promise
  let end: unknown = null
  const delivered = deliver().then(value => { end = value })
  await until('the write', () => backend.written.length === 1)
  await turns()
  t.equal(end, null)
  t.match(app.backgroundTasks.stats(), { running: 1, pending: 1 })
  const [task] = backend.written[0] as [StoredTask]
  t.match(task, { name: 'child', payload: '1', delay: 5, requestId: 'req-of-another-process', attempts: 1 })
  stored.resolve([task.id])
  await ends('the delivery', delivered)
  t.match(end, { state: 'completed', result: 'done' })
  await settled(app, { completed: 1, stored: 1 })
})

test('several share a write, and the order is that of the adds', async t => {
  const gate = signal()
  const { backend, deliver } = await start(t, async (_payload, ctx) => {
    for (const n of [1, 2, 3]) ctx.add(child, n)
    await until('the first write', () => backend.written.length === 1)
    for (const n of [4, 5]) {
      ctx.add(child, n)
      await turns()
    }
    gate.resolve()
  })
  backend.writes = Infinity
  backend.onStore = async tasks => {
    await gate.promise
    return tasks.map(({ id }) => id)
  }
  t.match(await deliver(), { state: 'completed' })
  t.same(backend.written.map(tasks => tasks.map(({ payload }) => Number(payload))), [[1, 2, 3], [4, 5]])
})

test('if storing fails, so does the attempt, at once or at the next add', async t => {
  const handles: TaskHandle[] = []
  let later: unknown
  const { app, log, backend, deliver } = await start(t, async (_payload, ctx) => {
    handles.push(ctx.add(child, 1))
    if (handles.length < 2) return
    ctx.add(child, 2)
    await handles.at(-1)!.settled()
    try {
      ctx.add(child, 3)
    } catch (error) {
      later = error
    }
  })
  backend.onStore = async () => { throw new Error('the disk is full') }
  const refused = { code: 'FST_BGT_STORE_FAILED', message: /the disk is full/ }
  for (const { error } of [await deliver(), await deliver()] as any[]) t.match(error, refused)
  t.match(later, refused)
  for (const handle of handles) t.equal(handle.state, 'failed')
  await settled(app, { failed: 3, stored: 2, retried: 2 })
  t.match(log.filter(({ msg }) => msg === 'background task failed'), [{ task: { name: 'child' }, reqId: 'req-of-another-process', err: refused }])
  t.equal(backend.written.length, 2)
})

test('a task that is added while another one is refused is refused with it', async t => {
  const gate = signal()
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => {
    ctx.add(child, 1)
    await until('the write', () => backend.written.length === 1)
    ctx.add(child, 2)
    gate.resolve()
  })
  backend.onStore = async () => {
    await gate.promise
    throw new Error('no')
  }
  t.match(await deliver(), { state: 'failed', error: { code: 'FST_BGT_STORE_FAILED' } })
  t.same(backend.payloads, [1], 'nothing is stored behind it')
  await settled(app, { failed: 2, stored: 1, retried: 1 })
})

test('what a failed attempt has added stays, and its own error counts', async t => {
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => {
    ctx.add(child, 1)
    throw new Error('boom')
  })
  t.match(await deliver(), { state: 'failed', error: { message: 'boom' } })
  await settled(app, { stored: 2, retried: 1 })
  t.same(backend.payloads, [1])
})

test('cancelled before it is written, a task is not stored', async t => {
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => {
    await ctx.add(child, 1).cancel()
  })
  t.match(await deliver(), { state: 'completed' })
  t.same(backend.written, [])
  await settled(app, { completed: 1, cancelled: 1 })
})

test('while its tasks are being stored an attempt cannot be cancelled, and its time is over', async t => {
  const stored = signal()
  const { app, backend } = await start(t, () => {})
  backend.onStore = async tasks => {
    await stored.promise
    return tasks.map(({ id }) => id)
  }
  const local = defineTask('local', async (_payload: undefined, ctx) => { ctx.add(child, 1) }, { local: true, timeout: 20 })
  const other = await createApp(t, { backend: Object.assign(new StubBackend(), { onStore: backend.onStore }), tasks: [child, local] })
  await other.app.ready()
  const handle = other.app.backgroundTasks.add(local)
  await turns()
  t.equal(handle.state, 'running')
  t.equal(await handle.cancel(), false)
  stored.resolve()
  t.equal(await handle.settled(), 'completed')
  await settled(other.app, { completed: 1, stored: 1 })
  await settled(app, {})
})

test('plain functions, and local tasks, stay in the process, with the request\'s id', async t => {
  const seen: unknown[] = []
  const local = defineTask('local', async (n: number, ctx) => { seen.push(n, ctx.requestId) }, { local: true })
  const parent = defineTask('parent', async (_payload: undefined, ctx) => {
    ctx.add(local, 1)
    ctx.add((text: string) => { seen.push(text) }, 'plain')
  })
  const backend = new StubBackend()
  const { app } = await createApp(t, { backend, tasks: [local, parent] })
  await app.ready()
  t.match(await backend.deliver({ name: 'parent', requestId: 'r' }), { state: 'completed' })
  await settled(app, { completed: 3 })
  t.same(seen, [1, 'r', 'plain'])
  t.same(backend.written, [])
})

test('the application closes: a running task may still add, and its task is stored', async t => {
  const gate = signal()
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => {
    await gate.promise
    ctx.add(child, 1)
  }, { closeTimeout: 60_000 })
  const delivered = deliver()
  await turns()
  const closing = app.close()
  await until('the pause', () => backend.pauses === 1)
  gate.resolve()
  t.match(await delivered, { state: 'completed' })
  await ends('the close', closing)
  t.same(backend.payloads, [1])
  t.match(app.backgroundTasks.stats(), { completed: 1, stored: 1 })
})

test('the application closes while the backend says nothing: the task returns to the backend', async t => {
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => { ctx.add(child, 1) }, { closeTimeout: 20, storeTimeout: 60_000 })
  backend.onStore = () => new Promise(() => {})
  const delivered = deliver()
  await until('the write', () => backend.written.length === 1)
  await ends('the close', app.close())
  t.match(await delivered, { state: 'not attempted' })
  await settled(app, { stored: 1, failed: 1 })
})

test('the span of the hand-over is a child of the span of the attempt', async t => {
  const { span } = telemetry(t)
  const { app, backend, deliver } = await start(t, async (_payload, ctx) => { ctx.add(child, 1) })
  await deliver()
  await settled(app, { completed: 1, stored: 1 })
  t.ok(isParent(span('process parent'), span('send child')))
  t.match(backend.written[0]![0]!.carrier, { traceparent: new RegExp(span('send child').spanContext().spanId) })
})
