import type { FastifyRequest } from 'fastify'
import { once } from 'node:events'
import { test } from 'tap'
import { defineTask, type BackgroundTasks, type BackgroundTasksOptions } from '../index'
import { lateAddWarning } from '../lib/observe/report'
import { createDiApp, type Handle } from './support/awilix'
import { listen, settled, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { until } from './support/until'
import { noHandlerTimeout } from './support/versions'

const handleOf = (request: FastifyRequest) => request.diScope.resolve<Handle>('handle')
const tasksOf = (request: FastifyRequest) => request.diScope.resolve<BackgroundTasks>('backgroundTasks')

/** Serves one request and gives it back once it is over. */
async function oneRequest (t: Parameters<typeof createDiApp>[0], handler: (request: FastifyRequest) => void, options = {}, pluginOptions: BackgroundTasksOptions = {}) {
  const made = await createDiApp(t, pluginOptions, options)
  const { promise, resolve } = signal<FastifyRequest>()
  made.app.addHook('onResponse', async request => resolve(request))
  made.app.get('/', async request => {
    handler(request)
    return 'x'
  })
  const { url } = await listen(made.app)
  await fetch(url)
  const request = await promise
  await turns()
  return { ...made, request }
}

test('a task added after the run is over leases the scope again; what it resolved is disposed', async t => {
  const { app, handles, request } = await oneRequest(t, request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
  })
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
  const { promise: release, resolve: finish } = signal()
  request.backgroundTasks.add(async () => {
    const handle = handleOf(request)
    await release
    handle.use()
  })
  await settled(app, { completed: 1, running: 1 })
  await request.diScope.dispose()
  t.same(handles.map(handle => handle.closed), [1, 0], 'a dispose() meanwhile waits')
  finish()
  await settled(app, { completed: 2 })
  t.same(handles.map(handle => handle.closed), [1, 1])
  request.backgroundTasks.add(() => handleOf(request).use())
  await settled(app, { completed: 3 })
  t.same(handles.map(handle => handle.closed), [1, 1, 1], 'and a third time')
})

test('a request that had added nothing: its first task comes after the response', async t => {
  const { app, handles, request } = await oneRequest(t, () => {})
  const handle = handleOf(request)
  request.backgroundTasks.add(async () => {
    await turns()
    handle.use()
  })
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that answers and goes on: tasks added then are disposed after', async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: ended, resolve: end } = signal()
  app.addHook('onResponse', async () => { setImmediate(end) })
  app.get('/', async (request, reply) => {
    reply.send('x')
    await ended
    const handle = handleOf(request)
    tasksOf(request).add(async () => {
      await turns()
      handle.use()
    })
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that outlives its timeout adds its first task', { skip: noHandlerTimeout }, async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: ended, resolve: end } = signal()
  app.addHook('onResponse', async () => { setImmediate(end) })
  app.get('/', { handlerTimeout: 10 }, async request => {
    await ended
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await turns()
      handle.use()
    })
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 503)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('`disposeScopes: false` leaves what a late task resolves alone', async t => {
  const made = await createDiApp(t, { disposeScopes: false }, { disposeOnResponse: false })
  const { promise, resolve } = signal<FastifyRequest>()
  made.app.addHook('onResponse', async request => resolve(request))
  made.app.get('/', async () => 'x')
  const { url } = await listen(made.app)
  await fetch(url)
  const request = await promise
  await turns()
  request.backgroundTasks.add(() => handleOf(request).use())
  await settled(made.app, { completed: 1 })
  t.same(made.handles.map(handle => handle.closed), [0])
})

test('resolved from a scope whose request is long over, it still takes tasks and looks after the scope', async t => {
  const { app, handles, log, request } = await oneRequest(t, () => {})
  await app.inject('/')
  const tasks = tasksOf(request)
  const { promise: release, resolve: finish } = signal()
  const first = tasks.add(async () => {
    const handle = handleOf(request)
    await release
    handle.use()
    tasks.add(() => handle.use())
  })
  const second = tasks.add(function second () { throw new Error('broken') })
  t.equal(first.state, 'pending')
  t.equal(tasks.release(), undefined, 'has nothing to start any more')
  t.equal(request.diScope.createScope().resolve('backgroundTasks'), tasks)
  await settled(app, { running: 1, pending: 1 })
  await request.diScope.dispose()
  t.same(handles.map(handle => handle.closed), [0])
  finish()
  t.equal(await second.settled(), 'failed')
  await settled(app, { completed: 2, failed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
  const failure = log.find(line => line.msg === 'background task failed')!
  t.equal(failure.task!.name, 'second')
  t.equal(failure.reqId, request.id, 'the log still tells which request it was')
})

for (const first of ['the scope', 'the request']) {
  test(`such a scope and its request give out one collector, whichever is asked first: ${first}`, async t => {
    const { app, handles, request } = await oneRequest(t, () => {})
    await app.inject('/')
    const bySecond = first === 'the scope' ? () => request.backgroundTasks : () => tasksOf(request)
    const tasks = first === 'the scope' ? tasksOf(request) : request.backgroundTasks
    t.ok(bySecond() === tasks)
    const handle = handleOf(request)
    const { promise: release, resolve: finish } = signal()
    tasks.add(() => handle.use())
    bySecond().add(async () => {
      await release
      handle.use()
    })
    await settled(app, { completed: 1, running: 1 })
    t.same(handles.map(handle => handle.closed), [0], 'the scope is kept for both tasks')
    finish()
    await settled(app, { completed: 2 })
    t.same(handles.map(handle => handle.closed), [1])
    handleOf(request)
    await request.diScope.dispose()
    t.same(handles.map(handle => handle.closed), [1, 1], 'and is its owner\'s again')
  })
}

test('a task added by way of such a scope knows its request', async t => {
  const seen: unknown[] = []
  const task = defineTask('late', async (_payload: undefined, ctx) => { seen.push(ctx.requestId) })
  const { app, request } = await oneRequest(t, () => {}, {}, { tasks: [task] })
  await app.inject('/')
  tasksOf(request).add(task)
  await settled(app, { completed: 1 })
  t.same(seen, [request.id])
})

test('a late add by way of the scope warns once the run is over', async t => {
  const { app, request } = await oneRequest(t, () => {})
  await app.inject('/')
  lateAddWarning.emitted = false
  const tasks = tasksOf(request)
  tasks.add(() => {})
  await settled(app, { completed: 1 })
  t.equal(lateAddWarning.emitted, false)
  const warned = once(process, 'warning')
  tasks.add(() => {})
  const [warning] = await warned
  t.equal(warning.code, 'FST_BGT_LATE_ADD')
  await settled(app, { completed: 2 })
})

test("mode: 'capture' knows the request of a task that comes after it", async t => {
  const { app, request } = await oneRequest(t, () => {}, {}, { mode: 'capture' })
  await app.inject('/')
  await tasksOf(request).add({ name: 'late' }, () => {}).settled()
  t.same(app.backgroundTasks.captured, [{ name: 'late', args: [], payload: undefined, requestId: request.id }])
})

test('a scope that is asked for the collector after the request takes tasks for the backend, too', async t => {
  const task = defineTask('late', () => {})
  const backend = new StubBackend()
  const { request } = await oneRequest(t, () => {}, {}, { tasks: [task], backend, worker: false })
  const scope = request.diScope
  const handle = scope.resolve<BackgroundTasks>('backgroundTasks').add(task)
  t.equal(await until('the task is stored', () => backend.written.length === 1 ? backend.written[0]![0]!.id : undefined), handle.id)
})
