import { constants } from 'node:http2'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { test, type Test } from 'tap'
import backgroundTasks from '../index'
import { answer, http2Client } from './support/client'
import { listen, settled, signal, turns } from './support/server'

async function createHttp2App (t: Test): Promise<FastifyInstance> {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  return app
}

test('HTTP/2: a finished response starts the tasks once', async t => {
  const app = await createHttp2App(t)
  let outcome: unknown
  const add = (request: FastifyRequest) => request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => {})
  app.get('/json', async request => { add(request); return { a: 1 } })
  app.get('/stream', async request => { add(request); return Readable.from(['a', 'b']) })
  app.get('/error', async request => {
    add(request)
    throw new Error('boom')
  })
  app.get('/hijacked', (request, reply) => {
    add(request)
    reply.hijack()
    reply.raw.end('by hand')
  })
  const { url } = await listen(app)
  const session = await http2Client(t, url)

  t.same(await answer(session.request({ ':path': '/json' })), { status: 200, body: '{"a":1}' })
  await settled(app, { completed: 1 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: false })

  t.same(await answer(session.request({ ':path': '/stream' })), { status: 200, body: 'ab' })
  await settled(app, { completed: 2 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: false })

  t.equal((await answer(session.request({ ':path': '/error' }))).status, 500)
  await settled(app, { completed: 3 })
  t.match(outcome, { statusCode: 500, error: { message: 'boom' }, aborted: false })

  t.same(await answer(session.request({ ':path': '/hijacked' })), { status: 200, body: 'by hand' })
  await settled(app, { completed: 4 })
})

for (const [how, leave] of [
  ['stream cancelled', (_session: any, stream: any) => stream.close(constants.NGHTTP2_CANCEL)],
  ['session lost', (session: any) => session.destroy()]
] as const) {
  test(`HTTP/2: ${how} while the handler runs: the tasks wait for it`, async t => {
    const app = await createHttp2App(t)
    const seen: string[] = []
    let outcome: unknown
    const begun = signal()
    app.get('/', async (request, reply) => {
      request.backgroundTasks.add(() => { seen.push('added before') })
      const left = once(reply.raw, 'close')
      begun.resolve()
      await left
      await turns()
      seen.push('handler')
      request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => { seen.push('added after') })
      return 'x'
    })
    const { url } = await listen(app)
    const session = await http2Client(t, url)
    const stream = session.request({ ':path': '/' })
    stream.on('error', () => {})
    await begun.promise
    leave(session, stream)
    await settled(app, { completed: 2 })
    t.same(seen, ['handler', 'added before', 'added after'])
    t.match(outcome, { error: null, failed: false, aborted: true })
  })
}

test('HTTP/2: a task added only after the stream was cancelled', async t => {
  const app = await createHttp2App(t)
  const begun = signal()
  app.get('/', async (request, reply) => {
    const left = once(reply.raw, 'close')
    begun.resolve()
    await left
    await turns()
    request.backgroundTasks.add(() => {})
  })
  const { url } = await listen(app)
  const session = await http2Client(t, url)
  const stream = session.request({ ':path': '/' })
  stream.on('error', () => {})
  await begun.promise
  stream.close(constants.NGHTTP2_CANCEL)
  await settled(app, { completed: 1 })
})

test('HTTP/2: a stream cancelled in the middle of the response', async t => {
  const app = await createHttp2App(t)
  let outcome: unknown
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => {})
    return Readable.from((async function * () {
      for (;;) {
        yield 'chunk'
        await turns(1)
      }
    })())
  })
  const { url } = await listen(app)
  const session = await http2Client(t, url)
  const stream = session.request({ ':path': '/' })
  stream.on('error', () => {})
  await once(stream, 'data')
  stream.close(constants.NGHTTP2_CANCEL)
  await settled(app, { completed: 1 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: true })
})

test('HTTP/2: an early answer starts the tasks while the upload is still open', async t => {
  const app = await createHttp2App(t)
  let outcome: unknown
  app.post('/', {
    onRequest: async (request, reply) => {
      request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => {})
      return reply.send('early')
    }
  }, async () => 'never')
  const { url } = await listen(app)
  const session = await http2Client(t, url)
  const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'text/plain' }, { endStream: false })
  stream.write('the first part')
  t.same(await answer(stream), { status: 200, body: 'early' })
  await settled(app, { completed: 1 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: false })
  stream.end()
})

test('HTTP/2: a hijacked reply, cancelled before anything was sent: the tasks wait for the handler', async t => {
  const app = await createHttp2App(t)
  const seen: string[] = []
  const begun = signal()
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => { seen.push('task') })
    reply.hijack()
    const left = once(reply.raw, 'close')
    begun.resolve()
    await left
    await turns()
    seen.push('handler')
  })
  const { url } = await listen(app)
  const session = await http2Client(t, url)
  const stream = session.request({ ':path': '/' })
  stream.on('error', () => {})
  await begun.promise
  stream.close(constants.NGHTTP2_CANCEL)
  await settled(app, { completed: 1 })
  t.same(seen, ['handler', 'task'])
})
