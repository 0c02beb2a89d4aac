import type { FastifyReply } from 'fastify'
import { PassThrough } from 'node:stream'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasks } from '../index'
import { http2Client, rawClient } from './support/client'
import { createApp, listen, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'

// While the backend stores a request's tasks, its handler has sent the reply, for all that it can see or do.

const task = defineTask('task', async (_payload: unknown) => {})

/** An application whose handler has a reply held until `go.resolve()`, unless the request adds no task. */
async function holding (t: Test, handler: (reply: FastifyReply) => unknown, http2 = false) {
  const backend = new StubBackend()
  const go = signal()
  const asked = signal()
  backend.onStore = async tasks => {
    asked.resolve()
    await go.promise
    return tasks.map(({ id }) => id)
  }
  const { app } = await createApp(t, { backend, worker: false, tasks: [task] }, (http2 ? { http2 } : {}) as object)
  const route = (add: (tasks: BackgroundTasks) => void) => async (request: { backgroundTasks: BackgroundTasks }, reply: FastifyReply) => {
    add(request.backgroundTasks)
    return handler(reply)
  }
  app.get('/plain', route(() => {}))
  app.get('/', route(tasks => { tasks.add(task, 1) }))
  const { url, port } = await listen(app)
  return { url, port, backend, asked, go }
}

test('what the handler does to status, headers and trailers after it has sent has no effect', async t => {
  const { url, go } = await holding(t, async reply => {
    reply.code(201).headers({ 'x-kept': 'yes', 'x-changed': 'before' }).header('set-cookie', 'a=1').header('set-cookie', 'b=2').send({ a: 1 })
    reply.code(500).type('text/plain').headers({ 'x-changed': 'after', 'x-new': 'no', 'set-cookie': 'c=3' }).removeHeader('x-kept')
    reply.trailer('x-end', async () => 'no')
  })
  go.resolve()
  const answers = []
  for (const path of ['/plain', '/']) {
    const response = await fetch(`${url}${path}`)
    answers.push([response.status, await response.text(), [...response.headers].filter(([name]) => name !== 'date')])
  }
  t.same(answers[1], answers[0])
  t.same(answers[0]!.slice(0, 2), [201, '{"a":1}'])
})

test('a handler that awaits the reply goes on when the stream has been sent', async t => {
  const stream = new PassThrough()
  const seen: string[] = []
  const done = signal()
  const { url, asked, go } = await holding(t, async reply => {
    await reply.send(stream)
    seen.push('sent')
    done.resolve()
  })
  const response = fetch(url)
  await asked.promise
  await turns()
  t.same(seen, [])
  go.resolve()
  stream.write('first')
  const answer = await response
  await turns()
  t.same(seen, [])
  stream.end(', last')
  t.equal(await answer.text(), 'first, last')
  await done.promise
})

for (const http2 of [false, true]) {
  test(`a client that leaves meanwhile${http2 ? ', on HTTP/2' : ''}: the handler goes on, and the source is closed`, async t => {
    const source = new PassThrough()
    const cancelled = signal()
    for (const payload of [source, new ReadableStream({ cancel () { cancelled.resolve() } })]) {
      const [left, done] = [signal(), signal()]
      const { url, port, asked, go } = await holding(t, async reply => {
        reply.raw.once('close', left.resolve)
        await reply.send(payload)
        done.resolve()
      }, http2)
      const leave = http2 ? await getHttp2(t, url) : await getRaw(t, port)
      await asked.promise
      leave()
      await left.promise
      go.resolve()
      await done.promise
    }
    await cancelled.promise
    t.ok(source.destroyed)
  })
}

/** Requests `/`; returns what leaves. */
async function getHttp2 (t: Test, url: string): Promise<() => void> {
  const stream = (await http2Client(t, url)).request({ ':path': '/' })
  stream.on('error', () => {})
  return () => { stream.close(8) }
}

async function getRaw (t: Test, port: number): Promise<() => void> {
  const client = await rawClient(t, port)
  client.send('GET', '/')
  return () => { client.leave() }
}

test('hijack() after the handler has sent comes too late: the client has its answer, also where storing fails', async t => {
  const { url, backend, go } = await holding(t, async reply => {
    reply.send('x')
    reply.hijack()
  })
  go.resolve()
  t.equal((await fetch(url)).status, 200)
  backend.onStore = async () => { throw new Error('down') }
  t.equal((await fetch(url)).status, 503)
})
