import { test } from 'tap'
import { rawClient } from './support/client'
import { createApp, listen, settled, signal } from './support/server'
import { until } from './support/until'

test('pipelined requests whose connection is closed while they wait for their turn', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const all = signal()
  let begun = 0
  app.get('/:name', async request => {
    const { name } = request.params as { name: string }
    request.backgroundTasks.add(() => { ran.push(name) })
    if (++begun === 3) all.resolve()
    // The first one keeps the connection, so that the answers to the others cannot go out.
    if (name === 'first') await left.promise
    return name
  })
  const left = signal()
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  app.server.once('connection', () => {})
  client.send('GET', '/first')
  client.send('GET', '/second')
  client.send('GET', '/third')
  await all.promise
  t.same(ran, [])
  client.leave()
  await until('two have run', () => ran.length >= 2)
  t.same(ran.sort(), ['second', 'third'])
  left.resolve()
  await settled(app, { completed: 3 })
  t.same(ran, ['second', 'third', 'first'])
})

test('a pipelined request that adds only after the connection was closed', async t => {
  const { app } = await createApp(t)
  const [begun, left] = [signal(), signal()]
  app.get('/first', () => new Promise(() => {}))
  app.get('/second', async request => {
    request.raw.socket.once('close', left.resolve)
    begun.resolve()
    await left.promise
    request.backgroundTasks.add(() => {})
    return ''
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/first')
  client.send('GET', '/second')
  await begun.promise
  client.leave()
  await settled(app, { completed: 1 })
})

test('pipelined requests that are answered in turn', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const go = signal()
  app.get('/:name', async request => {
    const { name } = request.params as { name: string }
    request.backgroundTasks.add(() => { ran.push(name) })
    if (name === 'first') await go.promise
    else go.resolve()
    return `<${name}>`
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/first')
  client.send('GET', '/second')
  await client.until('<second>')
  await settled(app, { completed: 2 })
  t.same(ran, ['first', 'second'])
  client.leave()
  await settled(app, { completed: 2 })
})
