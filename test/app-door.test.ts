import { test } from 'tap'
import { createApp, listen, settled, signal, turns } from './support/server'

test('app.backgroundTasks.add starts at once, each task on its own', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  const go = signal()
  app.backgroundTasks.add(async (name: string) => {
    seen.push(name)
    await go.promise
  }, 'first')
  app.backgroundTasks.add({ name: 'named', runOn: 'failure' }, (name: string) => { seen.push(name) }, 'second')
  t.same(seen, [], 'never inside add')
  await settled(app, { running: 1, completed: 1 })
  t.same(seen, ['first', 'second'])
  go.resolve()
  await settled(app, { completed: 2 })
})

test('idle() waits for all that runs or will, requests on their way out included', async t => {
  const { app } = await createApp(t)
  const go = signal()
  let ended = 0
  app.get('/', async request => {
    request.backgroundTasks.add(async () => {
      await go.promise
      request.backgroundTasks.add(() => { ended++ })
    })
    return 'x'
  })
  await app.backgroundTasks.idle()
  await app.inject('/')
  let idle = false
  const waiting = Promise.all([app.backgroundTasks.idle(), app.backgroundTasks.idle()]).then(() => { idle = true })
  await turns()
  t.equal(idle, false)
  go.resolve()
  await waiting
  t.equal(ended, 1)
  await app.backgroundTasks.idle()
})

test('idle() waits for a retry', async t => {
  const { app } = await createApp(t)
  let attempts = 0
  app.backgroundTasks.add({ attempts: 2, backoff: 5 }, () => { if (++attempts === 1) throw new Error('boom') })
  await app.backgroundTasks.idle()
  t.equal(attempts, 2)
})

test('idle() waits for what follows the last task at once', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  const follow = (name: string) => app.backgroundTasks.add(async () => {
    await turns()
    seen.push(name)
  })
  app.backgroundTasks.add(() => {}).settled().then(() => follow('one that waited for it to settle'))
  await app.backgroundTasks.idle()
  t.same(seen, ['one that waited for it to settle'])

  const self = app.backgroundTasks.add({ signal: true }, () => {
    self.cancel()
    follow('itself, which it cancelled')
  })
  await app.backgroundTasks.idle()
  t.same(seen, ['one that waited for it to settle', 'itself, which it cancelled'])
})

test('idle() inside a handler rejects instead of waiting for itself', async t => {
  const { app } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(() => {})
    await app.backgroundTasks.idle()
    return 'never'
  })
  const response = await app.inject('/')
  t.equal(response.statusCode, 500)
  t.match(response.json(), { code: 'FST_BGT_IDLE_IN_HANDLER', message: /received a call while 1 of them had tasks/ })
  await settled(app, { dropped: 1 })
})

test('idle() waits for a response that is still being sent, but not for a released request', async t => {
  const { app } = await createApp(t)
  const go = signal()
  app.get('/released', async request => {
    request.backgroundTasks.add(() => {})
    request.backgroundTasks.release()
    await go.promise
    return 'x'
  })
  const { url } = await listen(app)
  const response = fetch(`${url}/released`)
  await settled(app, { completed: 1 })
  await app.backgroundTasks.idle()
  go.resolve()
  await response
})

test('find returns the state of a task whose id has been read', async t => {
  const { app } = await createApp(t)
  const go = signal()
  const handle = app.backgroundTasks.add({ name: 'report', attempts: 2 }, async () => {
    await go.promise
    return { pages: 3 }
  })
  const { id } = handle
  t.match(await app.backgroundTasks.find(id), { id, name: 'report', state: 'pending', attempts: 0 })
  await settled(app, { running: 1 })
  t.match(await app.backgroundTasks.find(id), { state: 'running', attempts: 1, result: undefined })
  go.resolve()
  await handle.settled()
  t.match(await app.backgroundTasks.find(id), { id, name: 'report', state: 'completed', attempts: 1, result: { pages: 3 }, error: undefined })

  const failing = app.backgroundTasks.add(async () => { throw new Error('boom') })
  t.ok(failing.id)
  await failing.settled()
  t.match(await app.backgroundTasks.find(failing.id), { state: 'failed', attempts: 1, error: { message: 'boom' } })
  t.equal(await app.backgroundTasks.find('nothing'), null)
})

test('find remembers the last thousand settled tasks', async t => {
  const { app } = await createApp(t)
  const handles = Array.from({ length: 1_001 }, () => app.backgroundTasks.add(() => {}))
  const ids = handles.map(handle => handle.id)
  await app.backgroundTasks.idle()
  t.equal(await app.backgroundTasks.find(ids[0]!), null)
  t.match(await app.backgroundTasks.find(ids[1]!), { state: 'completed' })
  t.match(await app.backgroundTasks.find(ids[1_000]!), { state: 'completed' })
})

test('stats() adds up at every moment', async t => {
  const { app } = await createApp(t)
  const check = () => {
    const { accepted, retried, abandoned, ...states } = app.backgroundTasks.stats()
    t.equal(Object.values(states).reduce((sum, count) => sum + count, 0), accepted)
    return states
  }
  app.get('/', async request => {
    request.backgroundTasks.add(async () => { check() })
    request.backgroundTasks.add(() => { throw new Error('boom') })
    request.backgroundTasks.add({ runOn: 'failure' }, () => {})
    await request.backgroundTasks.add(() => {}).cancel()
    request.backgroundTasks.add({ key: 'a' }, () => {})
    request.backgroundTasks.add({ key: 'a' }, () => {})
    t.match(check(), { collecting: 4, cancelled: 1, replaced: 1 })
    return 'x'
  })
  await app.inject('/')
  await app.backgroundTasks.idle()
  t.match(check(), { completed: 2, failed: 1, dropped: 1, cancelled: 1, replaced: 1, collecting: 0, pending: 0, running: 0 })
})
