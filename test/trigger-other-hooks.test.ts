import Fastify, { type FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import backgroundTasks from '../index'
import { listen, settled } from './support/server'
import { until } from './support/until'

// Another plugin's onResponse hook, registered before or after, can neither stop the tasks nor is it held up by them.

type Hook = (request: unknown, reply: unknown, done: (error?: Error) => void) => unknown

const hooks: Record<string, Hook> = {
  throws: () => { throw new Error('from a hook') },
  rejects: async () => { throw new Error('from a hook') },
  'hands over an error': (_request, _reply, done) => done(new Error('from a hook')),
  'never calls done': () => {},
  'calls done late': (_request, _reply, done) => { setTimeout(done, 20) }
}

async function appWith (t: Test, hook: Hook, when: string): Promise<FastifyInstance> {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  if (when === 'before') app.addHook('onResponse', hook as never)
  await app.register(backgroundTasks)
  if (when === 'after') app.addHook('onResponse', hook as never)
  return app
}

for (const when of ['before', 'after']) {
  for (const [what, hook] of Object.entries(hooks)) {
    test(`an onResponse hook, registered ${when} the plugin, that ${what}`, async t => {
      const app = await appWith(t, hook, when)
      app.get('/', async request => {
        request.backgroundTasks.add(() => {})
        return 'x'
      })
      const { url } = await listen(app)
      t.equal(await (await fetch(url)).text(), 'x')
      await settled(app, { completed: 1 })
    })
  }
}

test('the other hooks and the "request completed" line do not wait for the tasks', async t => {
  const seen: string[] = []
  const app = Fastify({
    forceCloseConnections: true,
    logger: { level: 'info', stream: { write: (line: string) => { seen.push(JSON.parse(line).msg) } } }
  })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  app.addHook('onResponse', async () => { seen.push('onResponse') })
  let finish!: () => void
  app.get('/', async request => {
    request.backgroundTasks.add(() => new Promise<void>(resolve => {
      seen.push('task')
      finish = resolve
    }))
    return 'x'
  })
  const { url } = await listen(app)
  seen.length = 0
  await (await fetch(url)).text()
  await until('the task', () => seen.includes('task'))
  t.same(seen, ['incoming request', 'onResponse', 'request completed', 'task'])
  finish()
  await settled(app, { completed: 1 })
})

test('hooks of every kind may add, and so may services called from them', async t => {
  const app = await appWith(t, async () => {}, 'before')
  const seen: string[] = []
  app.addHook('onRequest', async request => { request.backgroundTasks.add(() => { seen.push('onRequest') }) })
  app.addHook('preParsing', async request => { request.backgroundTasks.add(() => { seen.push('preParsing') }) })
  app.addHook('preValidation', async request => { request.backgroundTasks.add(() => { seen.push('preValidation') }) })
  app.addHook('preHandler', async request => { request.backgroundTasks.add(() => { seen.push('preHandler') }) })
  app.addHook('preSerialization', async request => { request.backgroundTasks.add(() => { seen.push('preSerialization') }) })
  app.addHook('onSend', async request => { request.backgroundTasks.add(() => { seen.push('onSend') }) })
  app.addHook('onResponse', async request => { request.backgroundTasks.add(() => { seen.push('onResponse') }) })
  app.get('/', async request => {
    request.backgroundTasks.add(() => { seen.push('handler') })
    return {}
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await settled(app, { completed: 8 })
  t.same(seen, ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'handler', 'preSerialization', 'onSend', 'onResponse'])
})

test('the tasks are started by an onResponse hook that has a name, registered always', async t => {
  const app = await appWith(t, async () => {}, 'before')
  app.get('/', async () => 'x')
  await app.ready()
  t.match(app.printRoutes({ includeHooks: true }), /\(onResponse\) .*"backgroundTasksOnResponse\(\)"/)
})

test('an onResponse hook that comes after ours finds the tasks started', async t => {
  const app = await appWith(t, async () => {}, 'before')
  let state = ''
  app.addHook('onResponse', async request => { state = request.backgroundTasks.add(() => {}).state })
  app.get('/', async request => {
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await settled(app, { completed: 2 })
  t.equal(state, 'pending')
})

test('a plugin that calls the handlers of routes with something else than a request', async t => {
  const app = await appWith(t, async () => {}, 'before')
  app.addHook('onRoute', route => {
    const { handler } = route
    route.handler = function (request) {
      return (handler as any).call(this, { inner: request }, undefined)
    }
  })
  app.get('/', async ({ inner }: any) => {
    inner.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  t.equal(await (await fetch(url)).text(), 'x')
  await settled(app, { completed: 1 })
})
