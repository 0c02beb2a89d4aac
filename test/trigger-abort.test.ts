import Fastify from 'fastify'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { test } from 'tap'
import backgroundTasks from '../index'
import { getAndLeave, rawClient } from './support/client'
import { createApp, listen, settled, signal, turns } from './support/server'

// A client that leaves takes none of the tasks with it.

test('client gone before the handler ended: the tasks wait for the handler, and keep their order', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  let outcome: unknown
  const [begun, left] = [signal(), signal()]
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => { seen.push('added before') })
    reply.raw.once('close', left.resolve)
    begun.resolve()
    await left.promise
    await turns()
    seen.push('handler')
    request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => { seen.push('added after') })
    return 'nobody reads this'
  })
  await getAndLeave(t, app, begun.promise)
  await left.promise
  await app.backgroundTasks.idle()
  t.same(seen, ['handler', 'added before', 'added after'])
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: true })
})

test('a handler that answers a client long gone with an error, and goes on: the tasks wait for its end', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  const [begun, left] = [signal(), signal()]
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add({ runOn: 'always' }, () => { seen.push('task') })
    reply.raw.once('close', left.resolve)
    begun.resolve()
    await left.promise
    await turns()
    reply.send(new Error('nobody reads this'))
    await turns(20)
    seen.push('handler')
    return reply
  })
  await getAndLeave(t, app, begun.promise)
  await left.promise
  await settled(app, { completed: 1 })
  t.same(seen, ['handler', 'task'])
})

test('client gone first, tasks added only after that', async t => {
  for (const returned of [undefined, 'text', null]) {
    const { app } = await createApp(t)
    let runs = 0
    const begun = signal()
    app.get('/', async (request, reply) => {
      begun.resolve()
      await once(reply.raw, 'close')
      await turns()
      request.backgroundTasks.add(() => { runs++ })
      await turns()
      t.equal(runs, 0, 'not while the handler is at work')
      return returned
    })
    await getAndLeave(t, app, begun.promise)
    await settled(app, { completed: 1 })
    t.equal(runs, 1)
  }
})

test('client gone, then the handler throws: the tasks added before are dropped, as without an abort', async t => {
  const { app, log } = await createApp(t)
  const seen: string[] = []
  const begun = signal()
  app.setErrorHandler((error, request, reply) => {
    request.backgroundTasks.add(() => { seen.push(`after ${(error as Error).message}`) })
    reply.code(500).send('failed')
  })
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => { seen.push('never') })
    request.backgroundTasks.add({ runOn: 'failure' }, () => { seen.push('on failure') })
    const left = once(reply.raw, 'close')
    begun.resolve()
    await left
    throw new Error('boom')
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { dropped: 1, completed: 2 })
  t.same(seen, ['on failure', 'after boom'])
  t.match(log.find(line => line.msg === 'background task dropped'), { level: 20, reqId: 'req-1', why: "'success'" })
})

test('client gone before a sync handler could begin', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  const begun = signal()
  app.get('/:how', {
    preHandler: async (request, reply) => {
      request.backgroundTasks.add(() => { seen.push('added in the hook') })
      const left = once(reply.raw, 'close')
      begun.resolve()
      await left
      await turns()
    }
  }, (request, reply) => {
    request.backgroundTasks.add(() => { seen.push('added in the handler') })
    const { how } = request.params as { how: string }
    if (how === 'throws') throw new Error('boom')
    if (how === 'returns') return null
    reply.send('x')
  })
  const { port } = await listen(app)
  const go = async (how: string) => {
    seen.length = 0
    const client = await rawClient(t, port)
    client.send('GET', `/${how}`)
    await begun.promise
    client.leave()
  }
  await go('sends')
  await settled(app, { completed: 2 })
  t.same(seen, ['added in the hook', 'added in the handler'])
  await go('returns')
  await settled(app, { completed: 4 })
  t.same(seen, ['added in the hook', 'added in the handler'])
  await go('throws')
  await settled(app, { completed: 4, dropped: 2 })
})

test('client gone while its upload is on the way: the body parser fails, and the handler never begins', async t => {
  const { app } = await createApp(t)
  const begun = signal()
  app.addHook('onRequest', async request => {
    request.backgroundTasks.add({ runOn: 'always' }, () => {})
    request.backgroundTasks.add(() => {})
    begun.resolve()
  })
  app.post('/', async () => 'never')
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('POST', '/', { 'content-type': 'application/json', 'content-length': '100' }, '{"a":')
  await begun.promise
  client.leave()
  await settled(app, { completed: 1, dropped: 1 })
})

test('client gone, and the handler has no promise: the tasks start at the end of the connection', async t => {
  const { app } = await createApp(t)
  const begun = signal()
  app.get('/', request => {
    request.backgroundTasks.add(() => {})
    begun.resolve()
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await begun.promise
  t.equal(app.backgroundTasks.stats().collecting, 1)
  client.leave()
  await settled(app, { completed: 1 })
})

test('client gone, and the handler never settles: the tasks start after abortGrace', async t => {
  const { app } = await createApp(t, { abortGrace: 30 })
  const begun = signal()
  app.get('/', request => {
    request.backgroundTasks.add(() => {})
    begun.resolve()
    return new Promise(() => {})
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
})

test('a route declared before the plugin had loaded: its tasks start at the end of the connection', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  app.register(backgroundTasks)
  const [begun, left, end] = [signal(), signal(), signal()]
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => {})
    reply.raw.once('close', left.resolve)
    begun.resolve()
    await end.promise
    return ''
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
  end.resolve()
})

test('client gone mid-stream', async t => {
  const { app } = await createApp(t)
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
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await client.until('chunk')
  t.equal(app.backgroundTasks.stats().collecting, 1)
  client.leave()
  await settled(app, { completed: 1 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: true })
})

test('a stream that errors midway', async t => {
  const { app } = await createApp(t)
  let outcome: unknown
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => {})
    return Readable.from((async function * () {
      yield 'chunk'
      await turns()
      throw new Error('the source broke')
    })())
  })
  const { url } = await listen(app)
  const response = await fetch(url)
  await t.rejects(response.text())
  await settled(app, { completed: 1 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted: true })
})

test('a stream that errors before its first byte is an error like any other', async t => {
  const { app } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(() => {})
    return new Readable({ read () { this.destroy(new Error('no such thing')) } })
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 500)
  await settled(app, { dropped: 1 })
})

test('a client that closes its half of the connection counts as gone', async t => {
  const { app } = await createApp(t)
  let runs = 0
  const begun = signal()
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => { runs++ })
    const left = once(reply.raw, 'close')
    begun.resolve()
    await left
    t.equal(runs, 0)
    return 'x'
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port, { allowHalfOpen: true })
  client.send('GET', '/')
  await begun.promise
  client.socket.end()
  await settled(app, { completed: 1 })
})

test('a response that was complete, but not read to its end, when the client left: what Node makes of it', async t => {
  // Up to Node 22 such a response counts as sent.
  const aborted = Number(process.versions.node.split('.')[0]) >= 24
  const { app } = await createApp(t)
  let outcome: unknown
  const ended = signal()
  app.get('/', (request, reply) => {
    request.backgroundTasks.add({ runOn: o => { outcome = o; return true } }, () => {})
    reply.send(Buffer.alloc(50_000_000))
    ended.resolve()
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.socket.pause()
  client.send('GET', '/')
  await ended.promise
  await turns()
  t.equal(outcome, undefined)
  client.leave()
  await settled(app, { completed: 1 })
  t.same(outcome, { statusCode: 200, error: null, failed: false, aborted })
})

test('a hijacked reply whose client leaves before anything was sent: the tasks wait for the handler', async t => {
  const { app } = await createApp(t)
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
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
  t.same(seen, ['handler', 'task'])
})

test('a hijacked reply that has begun: the tasks start when the client leaves', async t => {
  const { app } = await createApp(t)
  const begun = signal()
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => {})
    reply.hijack()
    reply.raw.write('event')
    begun.resolve()
    await new Promise(() => {})
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await begun.promise
  await client.until('event')
  client.leave()
  await settled(app, { completed: 1 })
})

test('add when the client has left already, from a hijacked reply', async t => {
  const { app } = await createApp(t)
  const begun = signal()
  app.get('/', async (request, reply) => {
    reply.hijack()
    const left = once(reply.raw, 'close')
    begun.resolve()
    await left
    request.backgroundTasks.add(() => {})
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
})

test('client gone, then a hook answers in place of the handler', async t => {
  const { app } = await createApp(t)
  const begun = signal()
  app.get('/', {
    preHandler: async (request, reply) => {
      request.backgroundTasks.add(() => {})
      const left = once(reply.raw, 'close')
      begun.resolve()
      await left
      await turns()
      return reply.code(401).send('no')
    }
  }, async () => 'never')
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
})
