import { once } from 'node:events'
import { test } from 'tap'
import { rawClient } from './support/client'
import { createApp, listen, settled, signal, turns } from './support/server'

// While the application closes, handlers are still at work, and what they add is accepted and run.

test('a handler at work over a socket may add, before and while the tasks drain', async t => {
  const { app } = await createApp(t, { closeTimeout: 60_000 }, { forceCloseConnections: 'idle' })
  const ran: string[] = []
  const [begun, answer] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add(() => { ran.push('before the close') })
    begun.resolve()
    await answer.promise
    request.backgroundTasks.add(() => {
      ran.push('in the close')
      request.backgroundTasks.add(() => { ran.push('by that task') })
      app.backgroundTasks.add(() => { ran.push('by that task, to the application') })
    })
    return 'x'
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/', { connection: 'close' })
  await begun.promise
  const closed = app.close()
  await turns(20)
  t.equal(app.backgroundTasks.stats().collecting, 1)
  answer.resolve()
  await client.until('\r\n\r\nx')
  await closed
  t.same([...ran].sort(), ['before the close', 'by that task', 'by that task, to the application', 'in the close'])
  t.match(app.backgroundTasks.stats(), { accepted: 4, completed: 4 })
})

test('a handler over a socket that has not added anything yet may do so, too: the server waits for it', async t => {
  const { app } = await createApp(t, { closeTimeout: 10 }, { forceCloseConnections: 'idle' })
  const [begun, answer] = [signal(), signal()]
  app.get('/', async request => {
    begun.resolve()
    await answer.promise
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/', { connection: 'close' })
  await begun.promise
  const closed = app.close()
  await turns(20)
  answer.resolve()
  await client.until('\r\n\r\nx')
  await closed
  t.match(app.backgroundTasks.stats(), { accepted: 1, completed: 1 })
})

test('a handler of inject that has added is waited for, though the server does not wait for it', async t => {
  const { app } = await createApp(t, { closeTimeout: 60_000 })
  const ran: string[] = []
  const [begun, answer] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add(() => { ran.push('before the close') })
    begun.resolve()
    await answer.promise
    request.backgroundTasks.add(() => { ran.push('in the drain') })
    return 'x'
  })
  const response = app.inject('/')
  await begun.promise
  const closed = app.close()
  // Long enough for the server to have closed, which it says only when it listens.
  await turns(50)
  t.equal(app.backgroundTasks.stats().collecting, 1)
  answer.resolve()
  t.equal((await response).statusCode, 200)
  await closed
  t.same(ran, ['before the close', 'in the drain'])
})

test('a handler whose client the close has cut off is waited for, and may add', async t => {
  const { app } = await createApp(t, { closeTimeout: 60_000 }, { forceCloseConnections: true })
  const ran: string[] = []
  const [begun, answer] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add(() => { ran.push('before the close') })
    begun.resolve()
    await answer.promise
    request.backgroundTasks.add(() => { ran.push('in the drain') })
    return 'x'
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await begun.promise
  const serverClosed = once(app.server, 'close')
  const closed = app.close()
  await serverClosed
  await turns(20)
  t.same(ran, [])
  answer.resolve()
  await closed
  t.same(ran, ['before the close', 'in the drain'])
})

test('a handler that outlives closeTimeout: its tasks are reported, and it can add none any more', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 20 })
  const [begun, answer] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add({ name: 'collected' }, () => t.fail('must not run'))
    begun.resolve()
    await answer.promise
    t.throws(() => request.backgroundTasks.add(() => t.fail('must not run')), { code: 'FST_BGT_CLOSED' })
    return 'x'
  })
  const response = app.inject('/')
  await begun.promise
  await app.close()
  t.match(log.filter(({ level }) => level === 50), [{
    reqId: 'req-1',
    task: { name: 'collected', state: 'collecting' },
    msg: 'background task did not end before the application closed'
  }])
  answer.resolve()
  t.equal((await response).statusCode, 200)
  await settled(app, { dropped: 1 })
})

test('tasks released before the response are waited for, with the response', async t => {
  const { app } = await createApp(t, { closeTimeout: 60_000 })
  const ran: string[] = []
  const [running, answer] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: ({ statusCode }) => statusCode === 200 }, () => { ran.push('with the outcome') })
    request.backgroundTasks.add(() => {
      ran.push('released')
      running.resolve()
    })
    request.backgroundTasks.release()
    await answer.promise
    return 'x'
  })
  const response = app.inject('/')
  await running.promise
  const closed = app.close()
  await turns(50)
  answer.resolve()
  await closed
  await response
  t.same(ran, ['released', 'with the outcome'])
})
