import Fastify, { type FastifyReply } from 'fastify'
import { test } from 'tap'
import backgroundTasks from '../index'
import { listen, settled } from './support/server'

test('two sibling contexts each have their own tasks, and the context around them has none', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  const ran: string[] = []
  const children: Array<typeof app> = []
  for (const name of ['a', 'b']) {
    app.register(async child => {
      await child.register(backgroundTasks)
      children.push(child as typeof app)
      child.get('/', async request => {
        request.backgroundTasks.add(() => { ran.push(name) })
        return name
      })
    }, { prefix: `/${name}` })
  }
  app.get('/', async request => String(request.backgroundTasks))
  const { url } = await listen(app)
  t.equal(await (await fetch(`${url}/a`)).text(), 'a')
  t.equal(await (await fetch(`${url}/b`)).text(), 'b')
  t.equal(await (await fetch(url)).text(), 'undefined')
  t.notOk(app.hasDecorator('backgroundTasks'))
  await settled(children[0]!, { completed: 1 })
  await settled(children[1]!, { completed: 1 })
  t.same(ran, ['a', 'b'])
})

test('a hook that runs before ours has no collector yet: a coded error says what to do', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  app.addHook('onRequest', async request => { request.backgroundTasks.add(() => {}) })
  await app.register(backgroundTasks)
  app.get('/', async () => 'never')
  const response = await app.inject('/')
  t.equal(response.statusCode, 500)
  t.match(response.json(), { code: 'FST_BGT_TOO_EARLY', message: /register fastify-background-tasks before/ })
})

test('a request that Fastify refuses before routing has no collector', async t => {
  let error: unknown
  const app = Fastify({
    forceCloseConnections: true,
    frameworkErrors: (_error, request, reply: FastifyReply) => {
      try {
        request.backgroundTasks.add(() => {})
      } catch (caught) {
        error = caught
      }
      reply.code(400).send('refused')
    }
  })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  app.get('/:name', async () => 'x')
  const response = await app.inject('/%world')
  t.equal(response.statusCode, 400)
  t.ok(error)
})

test('a request that adds nothing gets no collector, and its reply no listener', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  const listeners: number[] = []
  app.get('/:what', async (request, reply) => {
    const before = reply.raw.listenerCount('close')
    const tasks = request.params as { what: string }
    if (tasks.what !== 'nothing') {
      const collector = request.backgroundTasks
      t.equal(collector, request.backgroundTasks, 'it is one object')
      if (tasks.what === 'adds') {
        collector.add(() => {})
        collector.add(() => {})
      }
    }
    listeners.push(reply.raw.listenerCount('close') - before)
    return 'x'
  })
  const { url } = await listen(app)
  for (const what of ['nothing', 'looks', 'adds']) await fetch(`${url}/${what}`)
  t.same(listeners, [0, 0, 1])
  await settled(app, { completed: 2 })
})

test('an error in a hook that runs before ours reaches every other onError hook', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  const seen: string[] = []
  app.addHook('onRequest', async () => { throw new Error('early') })
  await app.register(backgroundTasks)
  app.addHook('onError', async (_request, _reply, error) => { seen.push(error.message) })
  app.get('/', async () => 'never')
  const response = await app.inject('/')
  t.equal(response.statusCode, 500)
  t.match(response.json(), { message: 'early' })
  t.same(seen, ['early'])
})
