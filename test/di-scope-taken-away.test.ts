import { fastifyAwilixPlugin } from '@fastify/awilix'
import Fastify from 'fastify'
import { createContainer } from 'awilix'
import { test } from 'tap'
import backgroundTasks from '../index'
import { createDiApp } from './support/awilix'
import { settled } from './support/server'

test('a handler that takes the scope off its request keeps it to itself, and its tasks run all the same', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/', async request => {
    const { diScope } = request
    ;(request as { diScope: unknown }).diScope = null
    request.backgroundTasks.add(() => {})
    diScope.resolve('handle')
    await diScope.dispose()
    t.same(handles.map(handle => handle.closed), [1], 'not held back')
    return 'x'
  })
  await app.inject('/')
  await settled(app, { completed: 1 })
})

test('a hook between @fastify/awilix and the plugin may take the scope away', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyAwilixPlugin, { container: createContainer() })
  app.addHook('onRequest', async request => { (request as { diScope: unknown }).diScope = null })
  await app.register(backgroundTasks)
  app.get('/', async request => {
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  t.equal((await app.inject('/')).body, 'x')
  await settled(app, { completed: 1 })
})
