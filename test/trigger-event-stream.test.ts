import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { test } from 'tap'
import { rawClient } from './support/client'
import { createApp, listen, settled } from './support/server'

test('an event stream: after release() tasks start while the stream is open, and only once', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const events = new PassThrough()
  let requestLater!: { backgroundTasks: { add (fn: () => void): unknown } }
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add({ runOn: 'failure' }, () => { ran.push('on failure') })
    request.backgroundTasks.add(() => { ran.push('first') })
    request.backgroundTasks.add({ runOn: ({ aborted }) => aborted }, () => { ran.push('when aborted') })
    request.backgroundTasks.add({ runOn: 'always' }, () => { ran.push('second') })
    request.backgroundTasks.release()
    request.backgroundTasks.release()
    requestLater = request
    reply.type('text/event-stream')
    return events
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  events.write('data: 1\n\n')
  await client.until('data: 1')
  await settled(app, { completed: 2, collecting: 2 })
  t.same(ran, ['first', 'second'])
  requestLater.backgroundTasks.add(() => { ran.push('third') })
  await settled(app, { completed: 3, collecting: 2 })
  t.same(ran, ['first', 'second', 'third'])

  const closed = once(events, 'close')
  client.leave()
  await closed
  await settled(app, { completed: 4, dropped: 1 })
  t.same(ran, ['first', 'second', 'third', 'when aborted'])
})

test('release() after an error leaves the tasks collected before it to the outcome', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.setErrorHandler((_error, request, reply) => {
    request.backgroundTasks.add(() => { ran.push('added after') })
    request.backgroundTasks.release()
    reply.code(500).send('')
  })
  app.get('/', async request => {
    request.backgroundTasks.add(() => { ran.push('added before') })
    request.backgroundTasks.add({ runOn: 'failure' }, () => { ran.push('on failure') })
    throw new Error('boom')
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await settled(app, { completed: 2, dropped: 1 })
  t.same(ran, ['added after', 'on failure'])
})
