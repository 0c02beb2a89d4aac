import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import { once } from 'node:events'
import { test } from 'tap'
import WebSocket from 'ws'
import backgroundTasks from '../index'
import { createApp, listen, settled, signal, turns } from './support/server'

test('a WebSocket: after release() tasks start at once; without it, when the socket is closed', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  const seen: string[] = []
  app.get('/released', { websocket: true }, (socket, request) => {
    request.backgroundTasks.add(() => { seen.push('added before release') })
    request.backgroundTasks.release()
    socket.on('message', (message: Buffer) => {
      request.backgroundTasks.add((text: string) => {
        seen.push(text)
        socket.send(`done: ${text}`)
      }, String(message))
    })
  })
  const collected = signal()
  app.get('/held', { websocket: true }, (_socket, request) => {
    request.backgroundTasks.add(() => { seen.push('held') })
    collected.resolve()
  })
  const { port } = await listen(app)

  const released = new WebSocket(`ws://127.0.0.1:${port}/released`)
  await once(released, 'open')
  await settled(app, { completed: 1 })
  released.send('first message')
  t.equal(String((await once(released, 'message'))[0]), 'done: first message')
  released.send('second message')
  t.equal(String((await once(released, 'message'))[0]), 'done: second message')
  t.same(seen, ['added before release', 'first message', 'second message'])
  released.close()
  await once(released, 'close')
  await settled(app, { completed: 3 })

  const held = new WebSocket(`ws://127.0.0.1:${port}/held`)
  await once(held, 'open')
  await collected.promise
  t.equal(app.backgroundTasks.stats().collecting, 1)
  held.close()
  await settled(app, { completed: 4 })
  t.equal(seen.at(-1), 'held')
})

test('a WebSocket route, with @fastify/websocket registered before the plugin', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(websocket)
  await app.register(backgroundTasks)
  app.get('/', { websocket: true }, (socket, request) => {
    request.backgroundTasks.add(() => {})
    socket.send('added')
  })
  const { port } = await listen(app)
  const client = new WebSocket(`ws://127.0.0.1:${port}/`)
  t.equal(String((await once(client, 'message'))[0]), 'added')
  client.close()
  await settled(app, { completed: 1 })
})

test('a WebSocket whose async handler is still at work when the socket is closed: the tasks wait for it', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  const seen: string[] = []
  app.get('/', { websocket: true }, async (socket, request) => {
    request.backgroundTasks.add(() => { seen.push('task') })
    const closed = once(socket, 'close')
    socket.send('added')
    await closed
    await turns()
    seen.push('handler')
  })
  const { port } = await listen(app)
  const client = new WebSocket(`ws://127.0.0.1:${port}/`)
  t.equal(String((await once(client, 'message'))[0]), 'added')
  client.close()
  await settled(app, { completed: 1 })
  t.same(seen, ['handler', 'task'])
})
