import { asClass, asFunction, createContainer, Lifetime } from 'awilix'
import { fastifyAwilixPlugin } from '@fastify/awilix'
import Fastify, { type FastifyRequest } from 'fastify'
import { test } from 'tap'
import backgroundTasks, { defineTask, type AppBackgroundTasks } from '../index'
import { createDiApp, type Handle } from './support/awilix'
import { rawClient } from './support/client'
import { createApp, listen, settled, turns } from './support/server'

type Door = AppBackgroundTasks['current']

/** The application's door as it is, and the one that DI gives to a singleton: they must act alike. */
for (const di of [false, true]) {
  const what = di ? 'the door of the root container' : 'app.backgroundTasks.current'

  async function createDoor (t: Parameters<typeof createApp>[0]) {
    if (!di) {
      const { app, log } = await createApp(t, { asyncContext: true })
      return { app, log, door: app.backgroundTasks.current }
    }
    const { app, log, container } = await createDiApp(t, { asyncContext: true })
    class Service {
      readonly door: Door
      constructor ({ backgroundTasks }: { backgroundTasks: Door }) { this.door = backgroundTasks }
    }
    container.register('service', asClass(Service, { lifetime: Lifetime.SINGLETON }))
    return { app, log, door: container.resolve<Service>('service').door }
  }

  test(`${what} adds to the request in progress, however deep and whatever was awaited`, async t => {
    const { app, door } = await createDoor(t)
    const ran: string[] = []
    async function deepDown (id: string) {
      await turns(2)
      door.add(() => { ran.push(`${id} service`) })
    }
    app.get<{ Params: { id: string } }>('/:id', async request => {
      const { id } = request.params
      await deepDown(id)
      request.backgroundTasks.add(() => { ran.push(`${id} handler`) })
      await turns()
      t.notOk(ran.some(text => text.startsWith(id)), 'not before the response')
      return 'x'
    })
    const { url } = await listen(app)
    await Promise.all(['a', 'b', 'c'].map(id => fetch(`${url}/${id}`)))
    await app.backgroundTasks.idle()
    for (const id of ['a', 'b', 'c']) {
      t.same(ran.filter(text => text.startsWith(id)), [`${id} service`, `${id} handler`])
    }
  })

  test(`${what} finds the request in every hook and in the handler, with a body and without`, async t => {
    const { app, door } = await createDoor(t)
    const ids = new Map<string, string[]>()
    const note = (hook: string) => (request: FastifyRequest) => {
      const before = request.backgroundTasks
      const task = door.add({ name: hook }, () => { ids.set(request.id, [...ids.get(request.id) ?? [], hook]) })
      t.equal(request.backgroundTasks, before)
      // A task of the application would start at once.
      if (hook !== 'onResponse') t.equal(task.state, 'collecting', hook)
    }
    const hooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'onSend', 'onResponse'] as const
    for (const hook of hooks) app.addHook(hook as 'onRequest', async request => note(hook)(request))
    app.route({
      method: ['GET', 'POST'],
      url: '/',
      handler: async request => {
        note('handler')(request)
        return 'x'
      }
    })
    const { url } = await listen(app)
    await fetch(url)
    await settled(app, { completed: 7 })
    await fetch(url, { method: 'POST', body: JSON.stringify({ text: 'x'.repeat(100_000) }), headers: { 'content-type': 'application/json' } })
    await settled(app, { completed: 14 })
    t.same([...ids.values()], Array(2).fill(['onRequest', 'preParsing', 'preValidation', 'preHandler', 'handler', 'onSend', 'onResponse']))
  })

  test(`${what} finds it in the error handler too, also for a body that is refused`, async t => {
    const { app, door } = await createDoor(t)
    const ran: string[] = []
    const states: string[] = []
    app.addHook('onError', async (request, _reply, error) => {
      states.push(door.add({ runOn: 'failure' }, () => { ran.push(`${request.id} onError ${error.statusCode}`) }).state)
    })
    app.setErrorHandler(async (error: Error & { statusCode: number }, request) => {
      states.push(door.add(() => { ran.push(`${request.id} handler ${error.statusCode}`) }).state)
      return 'handled'
    })
    app.post('/', async () => 'x')
    const { url } = await listen(app)
    await fetch(url, { method: 'POST', body: '{ broken', headers: { 'content-type': 'application/json' } })
    await settled(app, { completed: 2 })
    t.same(ran, ['req-1 onError 400', 'req-1 handler 400'])
    t.same(states, ['collecting', 'collecting'])
  })

  test(`${what} in a task adds to the run that the task is of`, async t => {
    const { app, log, door } = await createDoor(t)
    app.get('/', async request => {
      request.backgroundTasks.add(async () => {
        await turns(2)
        door.add(function inner () { throw new Error('broken') })
      })
      return request.id
    })
    const { url } = await listen(app)
    const id = await (await fetch(url)).text()
    await settled(app, { completed: 1, failed: 1 })
    t.equal(log.find(line => line.msg === 'background task failed')!.reqId, id)
  })

  test(`${what} adds to the application outside of a request`, async t => {
    const { app, log, door } = await createDoor(t)
    await app.ready()
    const handle = door.add({ name: 'early', attempts: 2 }, (text: string) => { throw new Error(text) }, 'broken')
    t.equal(await handle.settled(), 'failed')
    const failure = log.find(line => line.msg === 'background task failed')!
    t.equal(failure.reqId, undefined)
    t.equal(failure.task!.name, 'early')
  })

  test(`${what} takes a request served within another for what it is`, async t => {
    const { app, door } = await createDoor(t)
    const ran: string[] = []
    app.get('/outer', async request => {
      door.add(() => { ran.push('outer') })
      const { body } = await app.inject('/inner')
      await turns()
      t.same(ran, ['inner'], 'its response has left, this one has not')
      t.equal(door.add(() => { ran.push('outer again') }).state, 'collecting')
      t.equal(request.backgroundTasks, request.backgroundTasks)
      return body
    })
    app.get('/inner', async () => {
      door.add(() => { ran.push('inner') })
      return 'x'
    })
    const { url } = await listen(app)
    t.equal(await (await fetch(`${url}/outer`)).text(), 'x')
    await app.backgroundTasks.idle()
    t.same(ran, ['inner', 'outer', 'outer again'])
  })
}

test('request scopes get nothing of their own: they resolve the object of the root container', async t => {
  const { app, container } = await createDiApp(t, { asyncContext: true }, { container: createContainer({ strict: true }) })
  container.register('mailer', asFunction(({ backgroundTasks }) => ({ backgroundTasks })).singleton())
  app.get('/', async request => {
    const door = container.resolve('backgroundTasks')
    t.equal(request.diScope.resolve('backgroundTasks'), door)
    t.equal(request.diScope.createScope().resolve('backgroundTasks'), door)
    t.equal(request.diScope.resolve<{ backgroundTasks: Door }>('mailer').backgroundTasks, door)
    t.equal(door, app.backgroundTasks.current)
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
})

test('scopes are leased as without it, and a defined task\'s scope gives the same object', async t => {
  const opened: Handle[] = []
  const task = defineTask('task', async (_payload: undefined, ctx) => {
    const scope = ctx.diScope!
    opened.push(scope.resolve<Handle>('handle'))
    const inner = scope.resolve<Door>('backgroundTasks').add(() => {})
    t.equal(inner.state, 'pending', 'it has joined the run, behind this one')
    await turns(2)
    t.equal(inner.state, 'pending')
    opened[0]!.use()
  })
  const { app, handles } = await createDiApp(t, { asyncContext: true, tasks: [task] })
  app.get('/', async request => {
    const handle = request.diScope.resolve<Handle>('handle')
    request.backgroundTasks.add(task)
    request.backgroundTasks.add(() => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 3 })
  t.same(handles.map(handle => handle.closed), [1, 1])
  t.same(handles.indexOf(opened[0]!), 1, 'the task had a handle of its own')
})

test('applications that share a container, one after the other, each register their own object in it', async t => {
  const container = createContainer()
  for (let i = 0; i < 2; i++) {
    const app = Fastify()
    await app.register(fastifyAwilixPlugin, { container, disposeOnClose: false })
    await app.register(backgroundTasks, { asyncContext: true })
    await app.ready()
    t.equal(await container.resolve<Door>('backgroundTasks').add(() => {}).settled(), 'completed')
    t.equal(app.backgroundTasks.stats().completed, 1)
    await app.close()
  }
})

test('without the option, app.backgroundTasks.current is a coded error that names it', async t => {
  const { app } = await createApp(t)
  t.throws(() => app.backgroundTasks.current, {
    code: 'FST_BGT_NO_ASYNC_CONTEXT',
    message: "app.backgroundTasks.current needs the plugin option 'asyncContext: true', received false"
  })
})

test('bodies that arrive bit by bit, by turns, do not confuse requests', async t => {
  const { app } = await createApp(t, { asyncContext: true })
  const seen: string[] = []
  app.post<{ Body: { id: string } }>('/', async request => {
    const task = app.backgroundTasks.current.add(() => { seen.push(request.body.id) })
    t.equal(task.state, 'collecting')
    return request.body.id
  })
  const { port } = await listen(app)
  const clients = [await rawClient(t, port), await rawClient(t, port)]
  for (const client of clients) {
    client.send('POST', '/', { 'content-type': 'application/json', 'content-length': '10', connection: 'close' }, '{"id"')
  }
  await turns(20)
  for (const [index, client] of clients.entries()) client.socket.write(`:"${index}"}`)
  await Promise.all(clients.map(client => client.until('\r\n\r\n')))
  await settled(app, { completed: 2 })
  t.same(seen.sort(), ['0', '1'])
})
