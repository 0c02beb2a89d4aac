import type { FastifyRequest } from 'fastify'
import { Readable } from 'node:stream'
import { test } from 'tap'
import { defineTask } from '../index'
import { createDiApp, type Handle } from './support/awilix'
import { answer, http2Client, getAndLeave, rawClient } from './support/client'
import { listen, settled, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'

const handleOf = (request: FastifyRequest) => request.diScope.resolve<Handle>('handle')

test('a client that leaves before the handler has ended: the scope is disposed once, after the tasks', async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal()
  const seen: string[] = []
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await turns(3)
      seen.push(`before, ${handle.use()}`)
    })
    reply.raw.on('close', leave)
    start()
    await gone
    request.backgroundTasks.add(() => { seen.push(`after, ${handle.use()}`) })
    return 'x'
  })
  await getAndLeave(t, app, started)
  await settled(app, { completed: 2 })
  t.same(seen, ['before, used', 'after, used'])
  t.same(handles.map(handle => handle.closed), [1])
})

test('a client that leaves before any task is added: the same', async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal()
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    reply.raw.on('close', leave)
    start()
    await gone
    await turns()
    request.backgroundTasks.add(() => handle.use())
    return 'x'
  })
  await getAndLeave(t, app, started)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a client that leaves and a handler that fails then: the dropped tasks give the scope back', async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal()
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    reply.raw.on('close', leave)
    start()
    await gone
    throw new Error('broken')
  })
  await getAndLeave(t, app, started)
  await settled(app, { dropped: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a client that leaves in the middle of a stream', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    return reply.send(new Readable({ read () { this.push('x'.repeat(1000)) } }))
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await client.until('xxx')
  t.same(handles.map(handle => handle.closed), [0])
  client.leave()
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a client that leaves, where all tasks go to a backend', async t => {
  const task = defineTask('task', async (_payload: undefined) => {})
  const { app, handles } = await createDiApp(t, { tasks: [task], backend: new StubBackend(), worker: false })
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal()
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(task)
    reply.raw.on('close', leave)
    start()
    await gone
    return handle.use()
  })
  await getAndLeave(t, app, started)
  await settled(app, { stored: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('`disposeScopes: false` leaves that scope to code that disposes scopes itself', async t => {
  const { app, handles } = await createDiApp(t, { disposeScopes: false }, { disposeOnResponse: false })
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal<FastifyRequest>()
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    reply.raw.on('close', leave)
    start(request)
    await gone
    return 'x'
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  const request = await started
  client.leave()
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [0])
  await request.diScope.dispose()
  t.same(handles.map(handle => handle.closed), [1])
})

test('a cancelled HTTP/2 stream, which is disposed of while its handler still runs', async t => {
  const { app, handles } = await createDiApp(t, {}, { fastify: { http2: true } as object })
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal()
  const seen: string[] = []
  app.addHook('onResponse', async () => leave())
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => { seen.push(`before, ${handle.use()}`) })
    start()
    await gone
    await turns()
    request.backgroundTasks.add(() => { seen.push(`after, ${handle.use()}`) })
    return 'x'
  })
  const { url } = await listen(app)
  const stream = (await http2Client(t, url)).request({ ':path': '/' })
  stream.on('error', () => {})
  await started
  stream.close(8)
  await settled(app, { completed: 2 })
  t.same(seen, ['before, used', 'after, used'])
  t.same(handles.map(handle => handle.closed), [1])
})

test('a cancelled HTTP/2 stream whose handler adds nothing until then', async t => {
  const { app, handles } = await createDiApp(t, {}, { fastify: { http2: true } as object })
  const { promise: gone, resolve: leave } = signal()
  const { promise: started, resolve: start } = signal()
  app.addHook('onResponse', async () => leave())
  app.get('/', async request => {
    start()
    await gone
    await turns()
    const tasks = request.diScope.resolve<typeof request.backgroundTasks>('backgroundTasks')
    t.equal(tasks, request.backgroundTasks)
    const handle = handleOf(request)
    tasks.add(() => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  const stream = (await http2Client(t, url)).request({ ':path': '/' })
  stream.on('error', () => {})
  await started
  stream.close(8)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('an HTTP/2 request that is answered', async t => {
  const { app, handles } = await createDiApp(t, {}, { fastify: { http2: true } as object })
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await turns()
      handle.use()
    })
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await answer((await http2Client(t, url)).request({ ':path': '/' }))).status, 200)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})
