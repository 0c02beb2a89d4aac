import websocket from '@fastify/websocket'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { test, type Test } from 'tap'
import WebSocket from 'ws'
import { ends, NEVER_MS, until } from './support/until'
import { defineTask } from '../index'
import { createDiApp, type Handle } from './support/awilix'
import { http2Client, getAndLeave, rawClient } from './support/client'
import { listen, settled, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'

// One task takes no DI scope from a handler that still runs: the scope is disposed once both have ended.

const handleOf = (request: FastifyRequest) => request.diScope.resolve<Handle>('handle')

const replies: Record<string, (reply: FastifyReply) => void> = {
  'a stream': reply => {
    const stream = new PassThrough()
    stream.write('data')
    reply.send(stream)
  },
  'an event stream by hand': reply => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    reply.raw.write('data')
  }
}

for (const [what, begin] of Object.entries(replies)) {
  for (const http2 of [false, true]) {
    test(`${what}${http2 ? ' on HTTP/2' : ''}, whose client leaves under the handler`, async t => {
      const { app, handles } = await createDiApp(t, {}, { fastify: (http2 ? { http2 } : {}) as object })
      const seen: string[] = []
      const [tasksDone, handlerDone] = [signal(), signal()]
      app.get('/', async (request, reply) => {
        const handle = handleOf(request)
        request.backgroundTasks.add(() => { seen.push(`task, ${handle.use()}`) })
        begin(reply)
        await once(reply.raw, 'close')
        await tasksDone.promise
        await turns()
        seen.push(`handler, ${handle.use()}`)
        handlerDone.resolve()
      })
      const { url, port } = await listen(app)
      await receiveAndLeave(t, http2 ? url : port)
      await settled(app, { completed: 1 })
      t.same(handles.map(handle => handle.closed), [0])
      tasksDone.resolve()
      await handlerDone.promise
      await turns()
      t.same(seen, ['task, used', 'handler, used'])
      t.same(handles.map(handle => handle.closed), [1])
    })
  }
}

/** Waits for the first data of a response to `/`, then leaves. */
async function receiveAndLeave (t: Test, target: string | number): Promise<void> {
  if (typeof target === 'string') {
    const stream = (await http2Client(t, target)).request({ ':path': '/' })
    stream.on('error', () => {})
    await once(stream, 'data')
    stream.close(8)
  } else {
    const client = await rawClient(t, target)
    client.send('GET', '/')
    await client.until('data')
    client.leave()
  }
}

const stored = defineTask('stored', async (_payload: undefined) => {})

const answers: Record<string, (reply: FastifyReply) => void> = {
  'reply.send': reply => { reply.send('x') },
  'a hijacked reply': reply => { reply.raw.end('x') }
}

/** A route `/` whose handler returns no promise, and has not answered. */
async function callbackApp (t: Test, { connection = 'HTTP/1', how = 'a hijacked reply', returnsReply = false, backend = false, ...options }) {
  const { app, handles } = await createDiApp(t, {
    ...options,
    ...(backend ? { tasks: [stored], backend: new StubBackend(), worker: false as const } : {})
  }, { fastify: (connection === 'HTTP/2' ? { http2: true } : {}) as object })
  const begun = signal<() => string>()
  app.get('/first', () => new Promise(() => {}))
  app.get('/', (request, reply) => {
    const handle = handleOf(request)
    if (backend) request.backgroundTasks.add(stored)
    else request.backgroundTasks.add(() => handle.use())
    if (how === 'a hijacked reply') reply.hijack()
    begun.resolve(() => {
      const used = handle.use()
      answers[how]!(reply)
      return used
    })
    if (returnsReply) return reply
  })
  const { url, port } = await listen(app)
  /** Returns what has the handler answer, once the client has left and its task has ended. */
  const askAndLeave = async () => {
    let leave: () => void
    if (connection === 'HTTP/2') {
      const stream = (await http2Client(t, url)).request({ ':path': '/' })
      stream.on('error', () => {})
      leave = () => stream.close(8)
    } else {
      const client = await rawClient(t, port)
      if (connection === 'a pipelined request') client.send('GET', '/first')
      client.send('GET', '/')
      leave = () => client.leave()
    }
    const answer = await begun.promise
    await turns()
    leave()
    await settled(app, backend ? { stored: 1 } : { completed: 1 })
    await turns()
    return answer
  }
  return { app, handles, askAndLeave }
}

for (const connection of ['HTTP/1', 'HTTP/2', 'a pipelined request']) {
  for (const how of Object.keys(answers)) {
    for (const returnsReply of [false, true]) {
      for (const backend of [false, true]) {
        const name = `a handler without a promise, ${connection}, ${how}${returnsReply ? ', which it returns' : ''}${backend ? ', with a backend' : ''}`
        test(`${name}: after its client has left it has its scope until it ends the reply`, async t => {
          const { handles, askAndLeave } = await callbackApp(t, { connection, how, returnsReply, backend })
          const answer = await askAndLeave()
          t.same(handles.map(handle => handle.closed), [0])
          t.equal(answer(), 'used')
          await turns()
          t.same(handles.map(handle => handle.closed), [1])
        })
      }
    }
  }
}

test('a handler that never ends its reply keeps the scope for abortGrace', async t => {
  const { handles, askAndLeave } = await callbackApp(t, { abortGrace: 20 })
  await askAndLeave()
  await until('the scope has been disposed', () => handles[0]?.closed === 1)
})

test('the close waits for such a handler no longer than closeTimeout', async t => {
  const { app, handles, askAndLeave } = await callbackApp(t, { closeTimeout: 20, abortGrace: NEVER_MS })
  await askAndLeave()
  t.same(handles.map(handle => handle.closed), [0])
  await app.close()
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that fails after its client has left', async t => {
  const { app, handles } = await createDiApp(t)
  const [begun, left] = [signal(), signal()]
  app.get('/', {
    preHandler: async (request, reply) => {
      request.backgroundTasks.add({ runOn: 'failure' }, () => {})
      reply.raw.once('close', left.resolve)
      begun.resolve()
      await left.promise
      await turns()
    }
  }, request => {
    handleOf(request)
    throw new Error('boom')
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a WebSocket has no reply to end: its scope is disposed after the tasks', async t => {
  const { app, handles } = await createDiApp(t)
  await app.register(websocket)
  const begun = signal()
  app.get('/', { websocket: true }, (_socket, request) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    begun.resolve()
  })
  const { port } = await listen(app)
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`)
  await once(socket, 'open')
  await begun.promise
  socket.close()
  await settled(app, { completed: 1 })
  await turns()
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that goes on after it has sent its reply, and adds another task', async t => {
  const { app, handles } = await createDiApp(t)
  const seen: string[] = []
  const [first, second] = [signal(), signal()]
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => { seen.push(`first, ${handle.use()}`) })
    reply.send('x')
    await first.promise
    request.backgroundTasks.add(() => { seen.push(`second, ${handle.use()}`) })
    await second.promise
    seen.push(`handler, ${handle.use()}`)
  })
  const { url } = await listen(app)
  t.equal(await (await fetch(url)).text(), 'x')
  await settled(app, { completed: 1 })
  first.resolve()
  await settled(app, { completed: 2 })
  t.same(handles.map(handle => handle.closed), [0])
  second.resolve()
  await turns()
  t.same(seen, ['first, used', 'second, used', 'handler, used'])
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that ends before a task which it added after its reply: the scope is disposed after the task', async t => {
  const { app, handles } = await createDiApp(t)
  const [handler, task] = [signal(), signal()]
  const seen: string[] = []
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => { seen.push(`first, ${handle.use()}`) })
    reply.send('x')
    await handler.promise
    request.backgroundTasks.add(async () => {
      await task.promise
      seen.push(`second, ${handle.use()}`)
    })
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await settled(app, { completed: 1 })
  handler.resolve()
  await settled(app, { completed: 1, running: 1 })
  await turns(5)
  t.same(handles.map(handle => handle.closed), [0])
  task.resolve()
  await settled(app, { completed: 2 })
  t.same(seen, ['first, used', 'second, used'])
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that never ends: the scope is disposed after abortGrace, once', async t => {
  const { app, handles } = await createDiApp(t, { abortGrace: 20 })
  const late = signal()
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    reply.send('x')
    await late.promise
  })
  const { url } = await listen(app)
  await fetch(url)
  await until('the scope has been disposed', () => handles[0]?.closed === 1)
  late.resolve()
  await turns()
  t.same(handles.map(handle => handle.closed), [1])
})

test('a handler that never ends, whose client left before anything was sent: one abortGrace for tasks and scope', async t => {
  const { app, handles } = await createDiApp(t, { abortGrace: 20 })
  const begun = signal()
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    begun.resolve()
    await new Promise(() => {})
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

for (const disposeOnResponse of [true, false]) {
  test(`the close waits for such a handler, disposeOnResponse: ${disposeOnResponse}`, async t => {
    const { app, handles } = await createDiApp(t, { closeTimeout: 2 * NEVER_MS }, { disposeOnResponse })
    const late = signal()
    const seen: string[] = []
    app.get('/', async (request, reply) => {
      const handle = handleOf(request)
      request.backgroundTasks.add(() => handle.use())
      reply.send('x')
      await late.promise
      seen.push(handle.use())
    })
    app.addHook('onClose', async () => { seen.push('closed') })
    const { url } = await listen(app)
    await fetch(url)
    await settled(app, { completed: 1 })
    const closing = app.close()
    await turns(20)
    late.resolve()
    await ends('the close', closing)
    t.same(seen, ['used', 'closed'])
    t.same(handles.map(handle => handle.closed), [disposeOnResponse ? 1 : 0])
  })
}

test('the close disposes the scope of a handler that does not end', async t => {
  const { app, handles } = await createDiApp(t, { closeTimeout: 20 })
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    reply.send('x')
    await new Promise(() => {})
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [0])
  await app.close()
  t.same(handles.map(handle => handle.closed), [1])
})

test('idle() inside a handler does not wait for that handler', async t => {
  const { app, handles } = await createDiApp(t)
  const idle = signal()
  app.get('/', async (request, reply) => {
    const handle = handleOf(request)
    const task = request.backgroundTasks.add(() => handle.use())
    reply.send('x')
    await task.settled()
    await app.backgroundTasks.idle()
    handle.use()
    idle.resolve()
  })
  const { url } = await listen(app)
  await fetch(url)
  await idle.promise
  await turns()
  t.same(handles.map(handle => handle.closed), [1])
})
