import { asClass, asFunction, createContainer, Lifetime } from 'awilix'
import type { FastifyRequest } from 'fastify'
import { test } from 'tap'
import type { BackgroundTasks } from '../index'
import { createDiApp } from './support/awilix'
import { listen, settled } from './support/server'

const tasksOf = (request: FastifyRequest) => request.diScope.resolve<BackgroundTasks>('backgroundTasks')

for (const injectionMode of ['PROXY', 'CLASSIC'] as const) {
  for (const strict of [false, true]) {
    test(`${injectionMode}${strict ? ', strict' : ''}: services of every kind add to the collector of the request`, async t => {
      const { app, container } = await createDiApp(t, {}, { container: createContainer({ injectionMode, strict }) })
      const ran: string[] = []
      const note = (text: string) => { ran.push(text) }

      class ProxyRepository {
        constructor (private readonly cradle: { backgroundTasks: BackgroundTasks }) {}
        find () { this.cradle.backgroundTasks.add(note, 'repository') }
      }
      class ClassicRepository {
        constructor (private readonly backgroundTasks: BackgroundTasks) {}
        find () { this.backgroundTasks.add(note, 'repository') }
      }
      class ProxyService {
        constructor (private readonly cradle: { repository: ProxyRepository, backgroundTasks: BackgroundTasks }) {}
        run () {
          this.cradle.backgroundTasks.add(note, 'service')
          this.cradle.repository.find()
        }
      }
      class ClassicService {
        constructor (private readonly repository: ClassicRepository, private readonly backgroundTasks: BackgroundTasks) {}
        run () {
          this.backgroundTasks.add(note, 'service')
          this.repository.find()
        }
      }
      const proxy = injectionMode === 'PROXY'
      container.register({
        service: asClass<{ run (): void }>(proxy ? ProxyService : ClassicService, { lifetime: Lifetime.SCOPED }),
        repository: asClass<{ find (): void }>(proxy ? ProxyRepository : ClassicRepository, { lifetime: Lifetime.SCOPED }),
        audit: proxy
          ? asFunction(({ backgroundTasks }: { backgroundTasks: BackgroundTasks }) => () => backgroundTasks.add(note, 'function')).scoped()
          : asFunction((backgroundTasks: BackgroundTasks) => () => backgroundTasks.add(note, 'function')).scoped()
      })
      app.get('/', async request => {
        request.diScope.resolve<ProxyService>('service').run()
        request.diScope.resolve<() => void>('audit')()
        request.diScope.build(proxy
          ? ({ backgroundTasks }: { backgroundTasks: BackgroundTasks }) => { backgroundTasks.add(note, 'factory') }
          : (backgroundTasks: BackgroundTasks) => { backgroundTasks.add(note, 'factory') })
        request.backgroundTasks.add(note, 'handler')
        t.same(ran, [], 'nothing runs before the response')
        return 'x'
      })
      const { url } = await listen(app)
      t.equal((await fetch(url)).status, 200)
      await app.backgroundTasks.idle()
      t.same(ran, ['service', 'repository', 'function', 'factory', 'handler'])
    })
  }
}

test('by name, by cradle and from child scopes, it is the object that request.backgroundTasks is', async t => {
  const { app } = await createDiApp(t)
  app.get('/', async request => {
    const resolvedFirst = tasksOf(request)
    const child = request.diScope.createScope()
    t.equal(resolvedFirst, request.backgroundTasks)
    t.equal((request.diScope.cradle as any).backgroundTasks, request.backgroundTasks)
    t.equal(child.resolve('backgroundTasks'), request.backgroundTasks)
    t.equal((child.createScope().cradle as any).backgroundTasks, request.backgroundTasks)
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
})

test('each request has its own, also those that overlap', async t => {
  const { app } = await createDiApp(t)
  const seen = new Map<string, string>()
  app.get<{ Params: { id: string } }>('/:id', async request => {
    const tasks = tasksOf(request)
    await new Promise(resolve => { setImmediate(resolve) })
    tasks.add((id: string) => { seen.set(id, request.params.id) }, request.params.id)
    t.equal(tasks, request.backgroundTasks)
    return 'x'
  })
  const { url } = await listen(app)
  const ids = ['a', 'b', 'c', 'd', 'e']
  await Promise.all(ids.map(id => fetch(`${url}/${id}`)))
  await app.backgroundTasks.idle()
  t.same([...seen].sort(), ids.map(id => [id, id]))
})

test('it resolves in every hook of the request, from the first onRequest hook after the plugin on', async t => {
  const { app } = await createDiApp(t)
  const ran: string[] = []
  const resolve = (request: FastifyRequest, hook: string) => {
    const tasks = tasksOf(request)
    t.equal(tasks, request.backgroundTasks, hook)
    tasks.add((hook: string) => { ran.push(hook) }, hook)
  }
  app.addHook('onRequest', async request => resolve(request, 'onRequest'))
  app.addHook('preParsing', async request => resolve(request, 'preParsing'))
  app.addHook('preValidation', async request => resolve(request, 'preValidation'))
  app.addHook('preHandler', async request => resolve(request, 'preHandler'))
  app.addHook('preSerialization', async request => resolve(request, 'preSerialization'))
  app.addHook('onSend', async request => resolve(request, 'onSend'))
  app.addHook('onResponse', async request => resolve(request, 'onResponse'))
  app.post('/', async request => {
    resolve(request, 'handler')
    return { an: 'object' }
  })
  const { url } = await listen(app)
  await fetch(url, { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } })
  await settled(app, { completed: 8 })
  t.same(ran, ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'handler', 'preSerialization', 'onSend', 'onResponse'])
})

test('an error handler and a not-found handler resolve it too', async t => {
  const { app } = await createDiApp(t)
  const ran: string[] = []
  app.setErrorHandler(async (error: Error, request) => {
    tasksOf(request).add((text: string) => { ran.push(text) }, error.message)
    t.equal(tasksOf(request), request.backgroundTasks)
    return 'handled'
  })
  app.setNotFoundHandler(async request => {
    tasksOf(request).add((text: string) => { ran.push(text) }, 'not found')
    return 'nothing'
  })
  app.get('/', async () => { throw new Error('thrown') })
  const { url } = await listen(app)
  await fetch(url)
  await fetch(`${url}/elsewhere`)
  await app.backgroundTasks.idle()
  t.same(ran, ['thrown', 'not found'])
})

test('first resolved in an onResponse hook, where nothing was collected before, it is still that object', async t => {
  const { app, handles } = await createDiApp(t)
  let ran = 0
  // A hook that comes before the one that asks, and awaits something.
  app.addHook('onResponse', async () => { await Promise.resolve() })
  app.addHook('onResponse', async request => {
    t.equal(tasksOf(request), request.backgroundTasks)
    tasksOf(request).add(() => {
      request.diScope.resolve<{ use (): void }>('handle').use()
      ran++
    })
  })
  app.get('/', async () => 'x')
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.equal(ran, 1)
  t.same(handles.map(handle => handle.closed), [1], 'and what a late task resolved is disposed')
})
