import { fastifyAwilixPlugin } from '@fastify/awilix'
import { createContainer } from 'awilix'
import Fastify, { type FastifyInstance } from 'fastify'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { test, type Test } from 'tap'
import backgroundTasks, { type BackgroundTasks, type BackgroundTasksOptions } from '../index'
import { registerHandle, type Handle } from './support/awilix'

const awilix = () => ({ container: createContainer() })

const refused = {
  code: 'FST_BGT_AWILIX_ORDER',
  message: 'fastify-background-tasks received its registration before that of @fastify/awilix, or outside its context: ' +
    'register @fastify/awilix first, in the same context or in one around it'
}

test('@fastify/awilix after the plugin fails at ready(), and says what to change', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(backgroundTasks)
  app.register(fastifyAwilixPlugin, awilix())
  await t.rejects(async () => { await app.ready() }, refused)
})

test('@fastify/awilix in a context within the plugin\'s, however deep, fails too', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(backgroundTasks)
  app.register(async child => {
    child.register(async grandchild => { grandchild.register(fastifyAwilixPlugin, awilix()) })
  })
  await t.rejects(async () => { await app.ready() }, refused)
})

test('so it does with `asyncContext`', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(backgroundTasks, { asyncContext: true })
  app.register(fastifyAwilixPlugin, awilix())
  await t.rejects(async () => { await app.ready() }, refused)
})

test('without @fastify/awilix, or with a diScope that is not its own, nothing is asked', async t => {
  for (const decorate of [false, true]) {
    const app = Fastify()
    t.teardown(() => app.close())
    if (decorate) app.decorateRequest('diScope' as any, null)
    app.register(backgroundTasks, { asyncContext: decorate })
    app.get('/', async request => {
      request.backgroundTasks.add(() => {})
      return 'x'
    })
    t.equal((await app.inject('/')).statusCode, 200)
    await app.backgroundTasks.idle()
  }
})

test('@fastify/awilix in a sibling context is nobody\'s business', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(async child => {
    await child.register(backgroundTasks)
    child.get('/tasks', async request => { request.backgroundTasks.add(() => {}) })
  })
  app.register(async child => {
    await child.register(fastifyAwilixPlugin, awilix())
    child.get('/di', async request => ({ has: request.diScope.hasRegistration('backgroundTasks') }))
  })
  t.same((await app.inject('/di')).json(), { has: false })
})

async function siblings (t: Test, options: BackgroundTasksOptions) {
  const app = Fastify()
  t.teardown(() => app.close())
  const container = createContainer()
  const handles = registerHandle(container)
  await app.register(fastifyAwilixPlugin, { container })
  const ran: string[] = []
  const contexts: FastifyInstance[] = []
  for (const name of ['one', 'two']) {
    app.register(async child => {
      contexts.push(child)
      await child.register(backgroundTasks, options)
      child.get(`/${name}`, async request => {
        const handle = request.diScope.resolve<Handle>('handle')
        request.diScope.resolve<BackgroundTasks>('backgroundTasks').add(() => { ran.push(`${name}, ${handle.use()}`) })
        await new Promise(resolve => { setImmediate(resolve) })
        return ran.length
      })
    })
  }
  await app.ready()
  return { app, contexts, handles, ran }
}

for (const asyncContext of [false, true]) {
  test(`two sibling contexts under one container, ${asyncContext ? 'with' : 'without'} asyncContext`, async t => {
    const { app, contexts, handles, ran } = await siblings(t, { asyncContext })
    t.equal((await app.inject('/one')).body, '0', 'not before the response')
    for (const context of contexts) await context.backgroundTasks.idle()
    t.equal((await app.inject('/two')).body, '1')
    for (const context of contexts) await context.backgroundTasks.idle()
    t.same(ran, ['one, used', 'two, used'])
    t.same(handles.map(handle => handle.closed), [1, 1])
    t.same(contexts.map(context => context.backgroundTasks.stats().completed), [1, 1])
  })
}

test('without awilix in the application, nothing of it is loaded', async t => {
  const script = `
    const Fastify = require('fastify')
    const app = Fastify()
    app.register(require('./index').default)
    app.get('/', async request => { request.backgroundTasks.add(() => {}); return 'x' })
    app.inject('/').then(async response => {
      await app.backgroundTasks.idle()
      const loaded = Object.keys(require.cache).filter(file => /node_modules.(@fastify.)?awilix/.test(file))
      console.log(JSON.stringify({ status: response.statusCode, files: Object.keys(require.cache).length > 50, loaded }))
    })`
  const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv, '-e', script], { cwd: join(__dirname, '..') })
  t.same(JSON.parse(stdout), { status: 200, files: true, loaded: [] })
})
