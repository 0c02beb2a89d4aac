import { asFunction, createContainer } from 'awilix'
import type { FastifyRequest } from 'fastify'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { defineTask } from '../index'
import { createDiApp, type Handle } from './support/awilix'
import { listen, settled, signal, turns } from './support/server'

const handleOf = (request: FastifyRequest) => request.diScope.resolve<Handle>('handle')

function withDisposer (dispose: () => unknown) {
  const container = createContainer()
  container.register('fragile', asFunction(() => ({})).scoped().disposer(dispose))
  return container
}

for (const [how, dispose] of [
  ['throws', () => { throw new Error('cannot close') }],
  ['rejects', async () => { throw new Error('cannot close') }]
] as const) {
  test(`a disposer that ${how} is logged with the request's id and harms nothing`, async t => {
    const task = defineTask('task', (_payload: undefined, ctx) => { ctx.diScope!.resolve('fragile') })
    const { app, log, handles } = await createDiApp(t, { tasks: [task] }, { container: withDisposer(dispose) })
    app.get('/plain', async request => {
      const handle = handleOf(request)
      request.diScope.resolve('fragile')
      request.backgroundTasks.add(() => handle.use())
      return request.id
    })
    app.get('/defined', async request => {
      request.backgroundTasks.add(task)
      return request.id
    })
    const { url } = await listen(app)
    const ids = [await (await fetch(`${url}/plain`)).text(), await (await fetch(`${url}/defined`)).text()]
    await settled(app, { completed: 2 })
    t.same(handles.map(handle => handle.closed), [1], 'the other disposers have run')
    const lines = log.filter(line => line.level === 50)
    t.same(lines.map(line => [line.reqId, line.err!.message]), ids.map(id => [id, 'cannot close']))
  })
}

test('a scope whose own dispose throws harms nothing', async t => {
  const { app, log } = await createDiApp(t)
  app.get('/', async request => {
    request.diScope.dispose = () => { throw new Error('not like this') }
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(log.filter(line => line.level === 50).map(line => line.err!.message), ['not like this'])
})

test('without a logger a disposer that fails is a process warning', async t => {
  const container = withDisposer(() => { throw new Error('cannot close') })
  const { app } = await createDiApp(t, {}, { container, fastify: { logger: false } })
  app.get('/', async request => {
    request.diScope.resolve('fragile')
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  const warned = once(process, 'warning')
  await fetch(url)
  const [warning] = await warned
  t.equal(warning.name, 'FastifyBackgroundTasksWarning')
  t.match(warning.detail, 'cannot close')
})

test('idle() waits for the disposers, and so does close(), which lets them end before the container itself', async t => {
  const { promise: release, resolve: finish } = signal()
  const { promise: begun, resolve: begin } = signal()
  const seen: string[] = []
  const container = withDisposer(async () => {
    begin()
    await release
    seen.push('scope disposed')
  })
  container.register('pool', asFunction(() => ({})).singleton().disposer(() => { seen.push('pool disposed') }))
  const { app } = await createDiApp(t, {}, { container })
  app.get('/', async request => {
    request.diScope.resolve('pool')
    request.diScope.resolve('fragile')
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await begun
  const idle = app.backgroundTasks.idle().then(() => { seen.push('idle') })
  const closed = app.close().then(() => { seen.push('closed') })
  await once(app.server, 'close')
  await turns()
  t.same(seen, [])
  finish()
  await Promise.all([idle, closed])
  t.same([...seen].sort(), ['closed', 'idle', 'pool disposed', 'scope disposed'])
  t.equal(seen[0], 'scope disposed')
  t.equal(seen.at(-1), 'closed')
})

test('close() waits for the disposers of what it gives up, too', async t => {
  const seen: string[] = []
  const container = withDisposer(async () => {
    await sleep(100)
    seen.push('scope disposed')
  })
  container.register('pool', asFunction(() => ({})).singleton().disposer(() => { seen.push('pool disposed') }))
  const { app } = await createDiApp(t, {}, { container })
  app.get('/', async request => {
    request.diScope.resolve('pool')
    request.diScope.resolve('fragile')
    request.backgroundTasks.add({ delay: 60_000 }, () => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await app.close()
  t.equal(app.backgroundTasks.stats().dropped, 1)
  t.same(seen, ['scope disposed', 'pool disposed'])
})

test('close() does not wait for a disposer for ever, and says what it leaves', async t => {
  const container = withDisposer(() => new Promise(() => {}))
  const { app, log } = await createDiApp(t, { closeTimeout: 20 }, { container })
  app.get('/', async request => {
    request.diScope.resolve('fragile')
    request.backgroundTasks.add(() => {})
    return request.id
  })
  const { url } = await listen(app)
  const ids = [await (await fetch(url)).text(), await (await fetch(url)).text()]
  await app.close()
  t.equal(app.backgroundTasks.stats().completed, 2)
  const lines = log.filter(line => line.level === 50)
  t.same(lines.map(line => [line.reqId, line.err!.message]), ids.map(id => [id, 'it did not end before the application closed']))
})

for (const logger of [true, false]) {
  test(`of many disposers that do not end, close() reports a hundred, and the number of the others, ${logger ? 'in the log' : 'by process warnings'}`, async t => {
    const warnings: Array<{ code?: string, message: string }> = []
    const onWarning = (warning: Error) => { warnings.push(warning) }
    process.on('warning', onWarning)
    t.teardown(() => process.off('warning', onWarning))
    const container = withDisposer(() => new Promise(() => {}))
    const { app, log } = await createDiApp(t, { closeTimeout: 20 }, { container, ...(!logger && { fastify: { logger: false } }) })
    app.get('/', async request => {
      request.diScope.resolve('fragile')
      request.backgroundTasks.add(() => {})
    })
    for (let i = 0; i < 103; i++) await app.inject('/')
    await settled(app, { completed: 103 })
    await app.close()
    await turns()
    t.equal(app.backgroundTasks.stats().completed, 103)
    const more = 'more DI scopes of background tasks were not disposed before the application closed'
    const lines = log.filter(line => line.level === 50)
    t.same([lines.length, warnings.length], logger ? [101, 0] : [0, 101])
    if (logger) t.match(lines[100], { msg: more, count: 3 })
    else t.match(warnings[100], { code: 'FST_BGT_DISPOSAL_FAILED', message: `${more}: 3` })
  })
}
