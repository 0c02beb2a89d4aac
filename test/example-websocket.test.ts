import { once } from 'node:events'
import { test, type Test } from 'tap'
import WebSocket from 'ws'
import { build } from '../examples/websocket'
import { listen, settled } from './support/server'
import { until } from './support/until'

async function connect (t: Test, options: Parameters<typeof build>[0]) {
  const app = await build({ latency: 20, ...options })
  t.teardown(() => app.close())
  const { port } = await listen(app)
  const socket = new WebSocket(`ws://127.0.0.1:${port}/shout`)
  t.teardown(() => socket.terminate())
  const received: string[] = []
  socket.on('message', message => { received.push(String(message)) })
  await once(socket, 'open')

  const messages = (count: number) => until(`${count} messages`, () => received.length >= count && received)

  return { app, socket, messages }
}

test('messages are accepted at once and worked on in their order, while the socket is open', async t => {
  const { socket, messages } = await connect(t, {})
  socket.send('one')
  socket.send('two')
  const received = await messages(4)
  t.same(received.filter(text => text.startsWith('accepted')), ['accepted: one', 'accepted: two'])
  t.same(received.filter(text => !text.startsWith('accepted')), ['ONE', 'TWO'])
  t.equal(received[0], 'accepted: one', 'before its work has been done')
})

test('what was accepted is done when the socket is closed', async t => {
  const { app, socket, messages } = await connect(t, {})
  socket.send('one')
  socket.send('two')
  await messages(2)
  socket.close()
  await settled(app, { completed: 2 })
})

test('a message too many is refused, and breaks nothing', async t => {
  const { app, socket, messages } = await connect(t, { maxPending: 1, latency: 200 })
  socket.send('one')
  socket.send('two')
  t.same(await messages(3), ['accepted: one', 'refused: two', 'ONE'])
  await settled(app, { completed: 1 })
})
