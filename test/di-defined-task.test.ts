import { test } from 'tap'
import { defineTask, type BackgroundTasks, type TaskContext } from '../index'
import { createDiApp, type Handle } from './support/awilix'
import { createApp, listen, settled, signal, turns } from './support/server'

test('a defined task has a scope of its own, a fresh one on each attempt, disposed after it', async t => {
  const { promise: release, resolve: finish } = signal()
  const inTask: Handle[] = []
  const task = defineTask('task', async (_payload: undefined, ctx) => {
    const handle = ctx.diScope!.resolve<Handle>('handle')
    t.equal(ctx.diScope, ctx.diScope, 'the same one throughout the attempt')
    t.ok(inTask.every(earlier => earlier !== handle && earlier.closed === 1), 'those of earlier attempts are closed')
    inTask.push(handle)
    if (ctx.attempt === 3) await release
    else await turns(2)
    handle.use()
    if (ctx.attempt < 3) throw new Error('not yet')
  }, { attempts: 3 })
  const { app, handles } = await createDiApp(t, { tasks: [task] })
  let inHandler!: Handle
  app.get('/', async request => {
    inHandler = request.diScope.resolve('handle')
    request.backgroundTasks.add(task)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { running: 1, retried: 2 })
  t.equal(inTask.length, 3)
  t.notOk(inTask.includes(inHandler))
  t.same(inTask.map(handle => handle.closed), [1, 1, 0])
  t.equal(inHandler.closed, 0, 'the request\'s own lives as long as its tasks')
  finish()
  await settled(app, { completed: 1, retried: 2 })
  t.same(handles.map(handle => handle.closed), [1, 1, 1, 1])
})

test('its backgroundTasks adds to the run of the same request, and to the application for one that had none', async t => {
  const task = defineTask('task', (_payload: undefined, ctx) => {
    const tasks = ctx.diScope!.resolve<BackgroundTasks>('backgroundTasks')
    tasks.add(function inner () { throw new Error('broken') })
    t.equal(ctx.diScope!.createScope().resolve('backgroundTasks'), tasks)
  })
  const { app, log } = await createDiApp(t, { tasks: [task] })
  const collectors: BackgroundTasks[] = []
  app.get('/', async request => {
    collectors.push(request.backgroundTasks)
    request.backgroundTasks.add(task)
    return request.id
  })
  const { url } = await listen(app)
  const id = await (await fetch(url)).text()
  await settled(app, { completed: 1, failed: 1 })
  app.backgroundTasks.add(task)
  await settled(app, { completed: 2, failed: 2 })
  t.same(log.filter(line => line.msg === 'background task failed').map(line => line.reqId), [id, undefined])
})

test('one that has timed out keeps its scope until its function has really ended', async t => {
  const { promise: release, resolve: finish } = signal()
  const uses: string[] = []
  const task = defineTask('task', async (_payload: undefined, ctx) => {
    const handle = ctx.diScope!.resolve<Handle>('handle')
    await release
    uses.push(handle.use(), ctx.diScope!.resolve<Handle>('handle').use())
  }, { timeout: 5 })
  const { app, handles } = await createDiApp(t, { tasks: [task] })
  app.get('/', async request => {
    request.backgroundTasks.add(task)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1, abandoned: 1 })
  t.same(handles.map(handle => handle.closed), [0])
  finish()
  await settled(app, { failed: 1 })
  t.same(uses, ['used', 'used'])
  t.same(handles.map(handle => handle.closed), [1])
})

test('one that fails synchronously, or adds in vain, has its scope disposed as well', async t => {
  const task = defineTask('task', (_payload: undefined, ctx) => {
    ctx.diScope!.resolve<Handle>('handle').use()
    throw new Error('broken')
  })
  const { app, handles } = await createDiApp(t, { tasks: [task] })
  app.get('/', async request => {
    request.backgroundTasks.add(task)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('scopes of tasks are disposed whoever disposes those of requests', async t => {
  const task = defineTask('task', (_payload: undefined, ctx) => { ctx.diScope!.resolve<Handle>('handle').use() })
  const { app, handles } = await createDiApp(t, { tasks: [task], disposeScopes: false }, { disposeOnResponse: false })
  app.backgroundTasks.add(task)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('without @fastify/awilix there is no scope', async t => {
  const scopes: unknown[] = []
  const task = defineTask('task', (_payload: undefined, ctx) => { scopes.push(ctx.diScope) })
  const { app } = await createApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await app.backgroundTasks.idle()
  t.same(scopes, [undefined])
})

test('a scope that is asked for when the handler has ended is not made', async t => {
  let late: unknown = 'unset'
  const asked = signal()
  const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => {
    setImmediate(() => {
      late = ctx.diScope
      asked.resolve()
    })
  })
  const { app, handles } = await createDiApp(t, { tasks: [task] })
  await app.ready()
  app.backgroundTasks.add(task)
  await asked.promise
  t.equal(late, undefined)
  t.equal(handles.length, 0)
})
