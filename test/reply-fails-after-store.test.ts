import type { FastifyInstance } from 'fastify'
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../index'
import { rawClient } from './support/client'
import { until } from './support/until'
import { createApp as createPlainApp, listen, signal, turns } from './support/server'
import { FindingBackend } from './support/stub-backend'

// A reply that fails once its tasks are stored: those for a success are cancelled where that can be, those for a failure stored.

const task = defineTask('task', async (_payload: unknown) => {})

async function createApp (t: Test, options: BackgroundTasksOptions = {}) {
  const backend = new FindingBackend()
  const { app, log } = await createPlainApp(t, { backend, worker: false, tasks: [task], ...options })
  return { app, log, backend }
}

/** The answer of a route `/` with a missing file, which is found missing before anything was sent. */
async function answerWithMissingFile (app: FastifyInstance): Promise<number> {
  const { url } = await listen(app)
  const response = await fetch(url)
  await response.text()
  await until('every task has settled', () => app.backgroundTasks.stats().collecting === 0)
  return response.status
}

test('the tasks for a success are cancelled before the error page is sent, those for a failure are stored with it', async t => {
  const { app, backend, log } = await createApp(t)
  const states: Array<Promise<string>> = []
  app.get('/', async request => {
    const success = request.backgroundTasks.add(task, 'success')
    states.push(success.settled())
    request.backgroundTasks.add({ runOn: 'failure' }, task, 'failure')
    request.backgroundTasks.add({ runOn: 'always' }, task, 'always')
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 500)
  t.same(backend.payloads, ['success', 'always', 'failure'])
  t.same(backend.cancelled, [backend.written.flat()[0]!.id])
  t.same(await Promise.all(states), ['cancelled'])
  t.match(log.filter(({ msg }) => msg === 'background task cancelled in the backend'), [{ reqId: 'req-1' }])
})

test('a task that the error handler has added stays stored', async t => {
  const { app, backend } = await createApp(t)
  app.setErrorHandler(async (_error, request, reply) => {
    request.backgroundTasks.add(task, 'added after the error')
    return reply.code(500).send('failed')
  })
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'added before the error')
    throw new Error('of the handler')
  })
  t.equal((await app.inject('/')).statusCode, 500)
  await until('the first task is dropped', () => app.backgroundTasks.stats().dropped === 1)
  await turns()
  t.same(backend.payloads, ['added after the error'])
  t.same(backend.cancelled, [])
})

test('without a task for failures the error page waits for the cancelling all the same', async t => {
  const { app, backend } = await createApp(t)
  const go = signal()
  const asked = signal()
  backend.onCancel = async () => {
    asked.resolve()
    await go.promise
    return true
  }
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'success')
    return createReadStream('/no/such/file')
  })
  let answered = false
  const { url } = await listen(app)
  const response = fetch(url).then(response => { answered = true; return response })
  await asked.promise
  await turns(20)
  t.notOk(answered)
  go.resolve()
  t.equal((await response).status, 500)
  t.same(backend.payloads, ['success'])
})

test('a task that has begun, or has a dedupe id, stays stored, and the log says so', async t => {
  const { app, backend, log } = await createApp(t)
  backend.onCancel = async () => false
  app.get('/', async request => {
    request.backgroundTasks.add({ name: 'begun' }, task, 1)
    request.backgroundTasks.add({ name: 'with a dedupe id', dedupe: 'x' }, task, 2)
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 500)
  t.equal(backend.cancelled.length, 1)
  const lines = log.filter(({ msg }) => msg === 'background task of a failed request stays in the backend')
  t.match(lines.sort((a, b) => a.task!.name < b.task!.name ? -1 : 1), [
    { level: 40, reqId: 'req-1', task: { name: 'begun' }, why: 'it has begun' },
    { level: 40, reqId: 'req-1', task: { name: 'with a dedupe id' }, why: 'it has a dedupe id' }
  ])
})

test('a backend that cannot take out what waits: the log says that', async t => {
  const { app, backend, log } = await createApp(t)
  backend.keepsWaiting = 'the stub keeps all'
  backend.onCancel = async () => false
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 500)
  t.match(log.filter(({ msg }) => msg === 'background task of a failed request stays in the backend'), [{ task: { name: 'task' }, why: 'the stub keeps all' }])
})

test('where the backend fails at that, the error page comes, and the log says so', async t => {
  const { app, backend, log } = await createApp(t)
  backend.onCancel = async () => { throw new Error('down') }
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 500)
  t.match(log.filter(({ msg }) => msg === 'background task could not be cancelled in the backend'), [{ err: { message: 'down' } }])
})

test('a task by a predicate is cancelled if that refuses it now, and stays if it cannot tell', async t => {
  const { app, backend } = await createApp(t)
  let asked = 0
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: ({ failed }) => !failed }, task, 'refuses')
    request.backgroundTasks.add({ runOn: () => true }, task, 'does not care')
    request.backgroundTasks.add({ runOn: () => { if (asked++ === 1) throw new Error('asked twice'); return true } }, task, 'throws')
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 500)
  t.same(backend.payloads, ['refuses', 'does not care', 'throws'])
  t.same(backend.cancelled, [backend.written.flat()[0]!.id])
})

test('tasks that the handler has stored by flush() stay stored', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'flushed')
    await request.backgroundTasks.flush()
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 500)
  t.same(backend.payloads, ['flushed'])
  t.same(backend.cancelled, [])
})

test('the option `outcome`, which changes its mind once the reply is over', async t => {
  let asked = 0
  const { app, backend } = await createApp(t, { outcome: () => ++asked === 1 ? 'success' : 'failure' })
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'success')
    request.backgroundTasks.add({ runOn: 'failure' }, task, 'failure')
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
  await until('the other is stored', () => backend.payloads.length === 2)
  await until('the first is cancelled', () => backend.cancelled.length === 1)
  t.same(backend.payloads, ['success', 'failure'])
})

test('a task for clients that leave is stored once its client has left', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(task, 'success')
    request.backgroundTasks.add({ runOn: ({ aborted }) => aborted }, task, 'aborted')
    return reply.send(new Readable({ read () { this.push('x'.repeat(1000)) } }))
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await client.until('xxx')
  client.leave()
  await until('both are stored', () => app.backgroundTasks.stats().stored === 2)
  t.same(backend.payloads, ['success', 'aborted'])
})

test('a stream of a missing file whose tasks could not be stored: a 503', async t => {
  const { app, backend } = await createApp(t)
  backend.onStore = async () => { throw new Error('down') }
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return createReadStream('/no/such/file')
  })
  t.equal(await answerWithMissingFile(app), 503)
})

test('an error page that cannot be sent either: the connection ends, and the process lives', async t => {
  const { app, log } = await createApp(t)
  app.addHook('onSend', async (_request, reply) => { if (reply.request.url === '/') reply.raw.statusCode = 1_000 })
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  app.get('/next', async () => 'y')
  const { url } = await listen(app)
  await t.rejects(fetch(url))
  t.equal(await (await fetch(`${url}/next`)).text(), 'y')
  t.match(log.find(({ msg }) => msg === 'reply could not be sent'), { level: 50, reqId: 'req-1' })
})

test('a handler that sends, and waits for what the reply waits for, sends one reply', async t => {
  const { app } = await createApp(t)
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(task, 1)
    reply.code(202).send('stored')
    await request.backgroundTasks.flush()
  })
  const { url } = await listen(app)
  const response = await fetch(url)
  t.same([response.status, await response.text()], [202, 'stored'])
})

test('a stream that is sent, and returned too, is sent once, although a hook of a plugin delays both replies', async t => {
  const { app, backend } = await createApp(t)
  const go = signal()
  backend.onStore = async tasks => {
    await go.promise
    return tasks.map(({ id }) => id)
  }
  let hooks = 0
  app.addHook('onSend', async (_request, _reply, payload) => {
    await turns(1)
    if (++hooks === 2) setImmediate(go.resolve)
    return payload
  })
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(task, 1)
    const stream = Readable.from(['a', 'b'])
    reply.send(stream)
    return stream
  })
  const { url } = await listen(app)
  t.equal(await (await fetch(url)).text(), 'ab')
})

test('a handler that fails while its flush() is still storing: the tasks stay stored, and the error page waits for them', async t => {
  const { app, backend } = await createApp(t)
  const [asked, go] = [signal(), signal()]
  backend.onStore = async tasks => {
    asked.resolve()
    await go.promise
    return tasks.map(({ id }) => id)
  }
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'flushed')
    request.backgroundTasks.flush().catch(() => {})
    await asked.promise
    request.backgroundTasks.add(task, 'not stored')
    request.backgroundTasks.add({ runOn: 'failure' }, task, 'failure')
    setImmediate(go.resolve)
    throw new Error('boom')
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 500)
  t.same(backend.payloads, ['flushed', 'failure'])
  t.same(backend.cancelled, [])
})
