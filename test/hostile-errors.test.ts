import Fastify from 'fastify'
import { test, type Test } from 'tap'
import backgroundTasks from '../index'
import { createApp, settled } from './support/server'

// Anything can be thrown. Whatever it is, it fails its own task and no other, and does not end the process.

const thrown: Record<string, () => unknown> = {
  'an error whose stack cannot be read': () => Object.defineProperty(new Error('x'), 'stack', { get () { throw new Error('stack') } }),
  'an error whose name cannot be read': () => Object.defineProperty(new Error('x'), 'name', { get () { throw new Error('name') } }),
  'a revoked proxy': () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  },
  'an object that cannot be inspected': () => ({ [Symbol.for('nodejs.util.inspect.custom')] () { throw new Error('inspect') } }),
  'an error with a stack that is no text': () => Object.assign(new Error('x'), { stack: Symbol('stack') })
}

function ignoreWarnings (t: Test): void {
  const onWarning = () => {}
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
}

for (const [what, make] of Object.entries(thrown)) {
  for (const logger of [true, false]) {
    test(`${what}, ${logger ? 'with' : 'without'} a logger`, async t => {
      ignoreWarnings(t)
      const app = logger ? (await createApp(t, { onError: () => { throw make() } })).app : Fastify()
      if (!logger) {
        t.teardown(() => app.close())
        await app.register(backgroundTasks, { onError: async () => { throw make() } })
      }
      app.get('/', async request => {
        request.backgroundTasks.add(() => { throw make() })
        request.backgroundTasks.add({ attempts: 2 }, async () => { throw make() })
        request.backgroundTasks.add(() => {})
        return 'x'
      })
      await app.inject('/')
      await app.backgroundTasks.idle()
      await settled(app, { failed: 2, retried: 1, completed: 1 })
    })
  }
}

test('a function whose name is no text, or cannot be read', async t => {
  ignoreWarnings(t)
  const { app } = await createApp(t)
  const symbolic = Object.defineProperty(() => { throw new Error('boom') }, 'name', { value: Symbol('name') })
  const throwing = Object.defineProperty(() => { throw new Error('boom') }, 'name', { get () { throw new Error('name') } })
  t.equal(app.backgroundTasks.add(symbolic).name, 'anonymous')
  t.equal(app.backgroundTasks.add(throwing).name, 'anonymous')
  await settled(app, { failed: 2 })
})

test('a promise that calls back twice ends its own task once, and no other', async t => {
  class Twice<T> extends Promise<T> {
    override then (fulfilled?: any, rejected?: any): any {
      super.then(fulfilled, rejected)
      return super.then(fulfilled, rejected)
    }
  }
  const { app } = await createApp(t, { concurrency: 1 })
  const seen: string[] = []
  app.get('/', async request => {
    request.backgroundTasks.add(() => Twice.resolve() as Promise<void>)
    request.backgroundTasks.add(async () => {
      seen.push('second begins')
      await new Promise(resolve => { setImmediate(resolve) })
      seen.push('second ends')
    })
    request.backgroundTasks.add(() => { seen.push('third') })
    return 'x'
  })
  await app.inject('/')
  await settled(app, { completed: 3 })
  t.same(seen, ['second begins', 'second ends', 'third'])
})

test('a handler that throws nothing, or null, has failed like any other', async t => {
  for (const value of [null, undefined]) {
    const { app } = await createApp(t)
    const ran: string[] = []
    app.get('/', async request => {
      request.backgroundTasks.add(() => { ran.push('success') })
      request.backgroundTasks.add({ runOn: 'failure' }, () => { ran.push('failure') })
      request.backgroundTasks.add({ runOn: ({ error }) => error instanceof Error }, () => { ran.push('predicate') })
      throw value
    })
    t.equal((await app.inject('/')).statusCode, 500)
    await settled(app, { completed: 2, dropped: 1 })
    t.same(ran, ['failure', 'predicate'])
  }
})

test('an async predicate fails its task, and its rejection does not end the process', async t => {
  const { app, log } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: (async () => { throw new Error('x') }) as never }, () => t.fail('must not run'))
    return 'x'
  })
  await app.inject('/')
  await settled(app, { failed: 1 })
  t.match(log.find(line => line.level === 50), { err: { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'runOn' must be a predicate that is not async/ } })
})
