import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { test } from 'tap'
import { rawClient } from './support/client'
import { createApp, listen } from './support/server'
import { until } from './support/until'

// Every way in which a response can be finished starts the tasks, once, whatever its status and however it was sent.

test('a finished response starts the tasks once', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const file = t.testdir({ 'file.txt': 'from a file' }) + '/file.txt'
  const add = (request: { url: string, method: string, backgroundTasks: typeof app.backgroundTasks | any }) => {
    request.backgroundTasks.add(() => { ran.push(`${request.method} ${request.url}`) })
  }

  app.get('/returned', async request => { add(request); return { a: 1 } })
  app.get('/sent', (request, reply) => { add(request); reply.send('sent') })
  app.get('/sent-later', (request, reply) => { add(request); setImmediate(() => reply.send('sent later')) })
  app.get('/reply-returned', async (request, reply) => { add(request); setImmediate(() => reply.send('x')); return reply })
  app.get('/status-500', async (request, reply) => { add(request); reply.code(500); return 'returned' })
  app.get('/not-found', (request, reply) => { add(request); reply.callNotFound() })
  app.get('/redirect', async (request, reply) => { add(request); return reply.redirect('/returned') })
  app.get('/no-content', async (request, reply) => { add(request); return reply.code(204).send() })
  app.get('/not-modified', async (request, reply) => { add(request); return reply.code(304).send() })
  app.get('/stream', async request => { add(request); return Readable.from(['a', 'b', 'c']) })
  app.get('/web-stream', async request => { add(request); return Readable.toWeb(Readable.from([Buffer.from('abc')])) })
  app.get('/file', async request => { add(request); return createReadStream(file) })
  app.get('/trailer', async (request, reply) => {
    add(request)
    reply.trailer('x-end', async () => 'yes')
    return 'body'
  })
  app.get('/hijacked', (request, reply) => {
    add(request)
    reply.hijack()
    reply.raw.end('by hand')
  })
  app.get('/early-hook', {
    onRequest: async (request, reply) => { add(request); return reply.send('from a hook') }
  }, async () => 'never')
  app.get('/early-handler', {
    preHandler: (request, reply, _done) => { add(request); reply.send('from a hook') }
  }, async () => 'never')
  app.setNotFoundHandler(async (request, reply) => { add(request); return reply.code(404).send('nowhere') })

  const { url } = await listen(app)
  const expected: Array<[string, string, number, string]> = [
    ['GET', '/returned', 200, '{"a":1}'],
    ['GET', '/sent', 200, 'sent'],
    ['GET', '/sent-later', 200, 'sent later'],
    ['GET', '/reply-returned', 200, 'x'],
    ['GET', '/status-500', 500, 'returned'],
    ['GET', '/redirect', 302, ''],
    ['HEAD', '/returned', 200, ''],
    ['GET', '/no-content', 204, ''],
    ['GET', '/not-modified', 304, ''],
    ['GET', '/stream', 200, 'abc'],
    ['GET', '/web-stream', 200, 'abc'],
    ['GET', '/file', 200, 'from a file'],
    ['GET', '/trailer', 200, 'body'],
    ['GET', '/hijacked', 200, 'by hand'],
    ['GET', '/early-hook', 200, 'from a hook'],
    ['GET', '/early-handler', 200, 'from a hook'],
    ['GET', '/nowhere', 404, 'nowhere']
  ]
  for (const [method, path, status, body] of expected) {
    await t.test(`${method} ${path}`, async t => {
      ran.length = 0
      const response = await fetch(url + path, { method, redirect: 'manual' })
      t.equal(response.status, status)
      t.equal(await response.text(), body)
      await app.backgroundTasks.idle()
      t.same(ran, [`${method} ${path}`])
    })
  }

  await t.test('callNotFound in the handler: its task and that of the not-found handler', async t => {
    ran.length = 0
    t.equal((await fetch(`${url}/not-found`)).status, 404)
    await app.backgroundTasks.idle()
    t.same(ran, ['GET /not-found', 'GET /not-found'])
  })

  t.match(app.backgroundTasks.stats(), { accepted: 19, completed: 19, collecting: 0 })
})

test('the same through inject', async t => {
  const { app } = await createApp(t)
  let outcome: unknown
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: seen => { outcome = seen; return true } }, () => {})
    return 'x'
  })
  const response = await app.inject('/')
  t.equal(response.body, 'x')
  await app.backgroundTasks.idle()
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: false })
  t.equal(app.backgroundTasks.stats().completed, 1)
})

test('requests on one kept-alive connection each run their own tasks', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.get('/:name', async request => {
    const { name } = request.params as { name: string }
    request.backgroundTasks.add(() => { ran.push(name) })
    return `<${name}>`
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/a')
  await client.until('<a>')
  client.send('GET', '/b')
  await client.until('<b>')
  await app.backgroundTasks.idle()
  t.same(ran, ['a', 'b'])
})

test('a large response that the client is slow to read starts the tasks when it has gone out', async t => {
  const { app } = await createApp(t)
  let outcome: unknown
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: seen => { outcome = seen; return true } }, () => {})
    return Buffer.alloc(8_000_000)
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.socket.pause()
  client.send('GET', '/')
  await new Promise(resolve => { app.server.once('request', resolve) })
  t.equal(outcome, undefined, 'not while bytes are on their way')
  client.socket.resume()
  await until('the whole response', () => client.received.length >= 8_000_000)
  await app.backgroundTasks.idle()
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: false })
})
