import { ReadableStream } from 'node:stream/web'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { defineTask, errorCodes, type BackgroundTasksOptions } from '../index'
import { MAX_TIMER_MS } from '../lib/shared/check-options'
import { setPropagation } from '../lib/observe/propagation'
import { Store } from '../lib/store/store'
import { gc } from './support/garbage'
import { getAndLeave } from './support/client'
import { ends, until } from './support/until'
import { createApp as createPlainApp, listen, signal, turns } from './support/server'
import { storedTask, StubBackend } from './support/stub-backend'
import type { Test } from 'tap'
import type { TaskHandle } from '../types/task'

// When and how the tasks of requests are written to a backend; the server is a stub.

const task = defineTask('task', async (_payload: unknown) => {})
const never = () => new Promise<never>(() => {})

async function createApp (t: Test, options: BackgroundTasksOptions = {}, backend = new StubBackend()) {
  const { app, log } = await createPlainApp(t, { backend, worker: false, storeTimeout: 1_000, tasks: [task], ...options })
  return { app, log, backend }
}

/** Has each write wait; resolve the signal to let them go on. */
function holdWrites (backend: StubBackend) {
  const go = signal()
  backend.onStore = async tasks => {
    await go.promise
    return tasks.map(({ id }) => id)
  }
  return go
}

/** One task a request to `/`; each write is answered when the test calls it. */
async function withHeldWrites (t: Test, options: BackgroundTasksOptions = {}) {
  const { app, backend } = await createApp(t, options)
  const writes: Array<() => void> = []
  backend.onStore = tasks => new Promise(resolve => { writes.push(() => resolve(tasks.map(({ id }) => id))) })
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  await app.ready()
  return { app, backend, writes }
}

test('the reply waits until the tasks are stored', async t => {
  const { app, backend } = await createApp(t, { storeTimeout: 20_000 })
  const written = signal()
  const go = signal()
  backend.onStore = async tasks => {
    written.resolve()
    await go.promise
    return tasks.map(({ id }) => id)
  }
  app.get('/', async request => {
    const handle = request.backgroundTasks.add(task, 1)
    return { state: handle.state }
  })
  let answered = false
  const response = app.inject('/').then(response => { answered = true; return response })
  await written.promise
  await turns(20)
  t.notOk(answered)
  go.resolve()
  t.equal((await response).statusCode, 200)
  t.same(backend.payloads, [1])
})

test('one batch a request, and concurrent requests share writes', async t => {
  const { app, backend } = await createApp(t, { storeTimeout: 20_000 })
  const go = signal()
  let arrived = 0
  app.get('/', async request => {
    if (++arrived === 64) go.resolve()
    await go.promise
    request.backgroundTasks.add(task, 1)
    request.backgroundTasks.add(task, 2)
    return 'x'
  })
  await app.ready()
  const responses = await Promise.all(Array.from({ length: 64 }, () => app.inject('/')))
  t.ok(responses.every(({ statusCode }) => statusCode === 200))
  t.equal(backend.written.flat().length, 128)
  t.ok(backend.written.length <= 3, `${backend.written.length} writes for 64 concurrent requests`)
})

test('so many writes at once as the backend takes, and no more', async t => {
  const { app, backend, writes } = await withHeldWrites(t, { storeTimeout: 20_000 })
  backend.writes = 2
  const responses = []
  for (const count of [1, 2]) {
    responses.push(app.inject('/'))
    await until('one more is being written', () => writes.length === count)
  }
  for (let i = 0; i < 3; i++) responses.push(app.inject('/'))
  await turns()
  t.equal(writes.length, 2)
  writes[0]!()
  t.equal((await responses[0]!).statusCode, 200)
  await until('what has gathered is being written', () => writes.length === 3)
  t.same(backend.written.map(({ length }) => length), [1, 1, 3])
  writes.forEach(end => end())
  for (const response of responses) t.equal((await response).statusCode, 200)
})

test('an answer that comes too late makes no room for a further write: its place has been taken', async t => {
  const { app, writes } = await withHeldWrites(t)
  const first = app.inject('/')
  await until('it is being written', () => writes.length === 1)
  await sleep(500)
  const second = app.inject('/')
  t.equal((await first).statusCode, 503)
  await until('the next one is being written', () => writes.length === 2)
  writes[0]!()
  const third = app.inject('/')
  await turns()
  t.equal(writes.length, 2)
  writes[1]!()
  t.equal((await second).statusCode, 200)
  await until('the last one is being written', () => writes.length === 3)
  writes[2]!()
  t.equal((await third).statusCode, 200)
})

test('of the requests that share a write, one alone may be refused', async t => {
  const { app, backend } = await createApp(t)
  backend.onBatch = ([first]) => first!.payload === '1' ? new Error('OOM command not allowed') : null
  app.get<{ Params: { n: string } }>('/:n', async request => {
    request.backgroundTasks.add(task, Number(request.params.n))
    return 'x'
  })
  await app.ready()
  const responses = await Promise.all([0, 1, 2].map(n => app.inject(`/${n}`)))
  t.same(responses.map(({ statusCode }) => statusCode), [200, 503, 200])
  t.match(responses[1]!.json(), { code: 'FST_BGT_STORE_FAILED', message: /OOM command not allowed/ })
  t.equal(backend.written.length, 1)
})

test('a write has at most a thousand tasks, unless one request has more', async t => {
  const { app } = await createPlainApp(t)
  const backend = new StubBackend()
  const sizes = [1_500, 600, 600, 300]
  const store = new Store(backend, 20_000)
  await store.open(app.log, () => app.log, new Map())
  const stored = (n: number) => ({ id: String(n), name: 'x', label: 'x', payload: null, requestId: null, attempts: 1, backoff: null, delay: 0, timeout: 0, dedupe: null, carrier: null })
  await Promise.all(sizes.map((size, n) => store.add(Array.from({ length: size }, () => stored(n)))))
  t.same(backend.written.map(({ length }) => length), [1_500, 600, 900])
})

for (const [name, onStore, cause] of [
  ['refuses', async () => { throw new Error('OOM command not allowed') }, /OOM command not allowed/],
  ['refuses without a message', async () => { throw Object.assign(new Error(''), { code: 'ECONNREFUSED' }) }, /ECONNREFUSED/],
  ['throws what is no error', async () => { throw 'full' }, /full/], // eslint-disable-line no-throw-literal -- what is no error is what is tested
  ['never answers', never, /no answer within 1000 ms/]
] as const) {
  test(`a server that ${name}: 503 within the bound, and nothing is left behind`, async t => {
    const { app, backend, log } = await createApp(t)
    backend.onStore = onStore as StubBackend['onStore']
    const states: string[] = []
    app.get('/', async request => {
      const handle = request.backgroundTasks.add(task, 1)
      const always = request.backgroundTasks.add({ runOn: 'always' }, task, 2)
      handle.settled().then(state => states.push(state))
      always.settled().then(state => states.push(state))
      return 'x'
    })
    await app.ready()
    const response = await ends('an answer', app.inject('/'))
    t.equal(response.statusCode, 503)
    t.match(response.json(), { code: 'FST_BGT_STORE_FAILED', message: cause })
    t.same(states.sort(), ['dropped', 'failed'])
    t.equal(backend.written.length, 1, 'the error page does not try again')
    t.match(log.filter(line => line.msg === 'background task failed'), [{ err: { code: 'FST_BGT_STORE_FAILED' } }])
    // It is back.
    backend.onStore = async tasks => tasks.map(({ id }) => id)
    t.equal((await app.inject('/')).statusCode, 200)
  })
}

test('an error of the handler comes first, then the store fails: an error all the same, and one try', async t => {
  const { app, backend } = await createApp(t)
  backend.onStore = async () => { throw new Error('down') }
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: 'failure' }, task, 1)
    throw new Error('boom')
  })
  const response = await app.inject('/')
  t.equal(response.statusCode, 500)
  t.match(response.json(), { message: /could not be stored/ })
  t.equal(backend.written.length, 1)
})

test('a batch that is written too late is cancelled', async t => {
  const { app, backend } = await createApp(t)
  const go = holdWrites(backend)
  backend.onCancel = async () => { throw new Error('a worker has it') }
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 503)
  go.resolve()
  await until('cancelled', () => backend.cancelled.length === 1)
  t.same(backend.cancelled, backend.written.flat().map(({ id }) => id))
})

test('a batch that was refused, and stored at the second try, is not cancelled by the late answer to the first', async t => {
  const { app, backend } = await createApp(t, { storeTimeout: 500 })
  backend.writes = 2
  const first = signal()
  const answers: Array<Promise<void>> = [first.promise, Promise.resolve()]
  backend.onStore = async tasks => {
    await answers.shift()
    return tasks.map(({ id }) => id)
  }
  app.get('/', async request => {
    const { id } = request.backgroundTasks.add(task, 1)
    await t.rejects(request.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
    return id
  })
  const response = await app.inject('/')
  t.equal(response.statusCode, 200)
  t.same(backend.written.flat().map(({ id }) => id), [response.body, response.body])
  first.resolve()
  await turns(20)
  t.same(backend.cancelled, [])
})

test('a batch behind a write that never ends is refused, and not written later', async t => {
  const { app, backend } = await createApp(t)
  backend.onStore = never
  app.get('/:n', async request => {
    request.backgroundTasks.add(task, (request.params as { n: string }).n)
    return 'x'
  })
  const first = app.inject('/1')
  await until('the first is being written', () => backend.written.length === 1)
  const second = await app.inject('/2')
  t.equal((await first).statusCode, 503)
  t.equal(second.statusCode, 503)
  await turns(20)
  t.notOk(backend.payloads.includes('3'))
  backend.onStore = async tasks => tasks.map(({ id }) => id)
  t.equal((await app.inject('/3')).statusCode, 200)
  t.ok(backend.payloads.includes('3'))
})

test('the source of a streamed reply is destroyed', async t => {
  const { app, backend } = await createApp(t)
  backend.onStore = async () => { throw new Error('down') }
  let cancelled = 0
  const web = () => new ReadableStream({ cancel: () => { cancelled++ } })
  const node = new Readable({ read () {} })
  const locked = web()
  locked.getReader()
  const replies: Record<string, () => unknown> = {
    node: () => node,
    web,
    response: () => new Response(web() as never),
    text: () => 'x',
    empty: () => new Response(null)
  }
  app.get('/:kind', async (request, reply) => {
    request.backgroundTasks.add(task, 1)
    return reply.send(replies[(request.params as { kind: string }).kind]!())
  })
  for (const kind of Object.keys(replies)) t.equal((await app.inject(`/${kind}`)).statusCode, 503, kind)
  t.ok(node.destroyed)
  t.equal(cancelled, 2)
})

test('an error handler that rewrites every error sees this one too', async t => {
  const { app, backend } = await createApp(t)
  backend.onStore = async () => { throw new Error('down') }
  const seen: unknown[] = []
  app.setErrorHandler((error: { code?: string }, _request, reply) => {
    seen.push(error.code)
    reply.code(200).send('all is well')
  })
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  const response = await app.inject('/')
  t.same([response.statusCode, response.body, seen], [200, 'all is well', ['FST_BGT_STORE_FAILED']])
})

test('tasks of a hijacked reply are stored after it', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', (request, reply) => {
    request.backgroundTasks.add(task, 1)
    reply.hijack()
    reply.raw.end(String(backend.written.length))
  })
  const { url } = await listen(app)
  t.equal(await (await fetch(url)).text(), '0')
  await until('stored', () => backend.written.length === 1)
})

test('tasks added after the plugin\'s onSend are stored after the reply', async t => {
  const { app, backend } = await createApp(t)
  app.addHook('onSend', async request => { request.backgroundTasks.add(task, 'hook') })
  app.get('/', async request => {
    setImmediate(() => setImmediate(() => request.backgroundTasks.add(task, 'late')))
    return 'x'
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await until('stored', () => backend.written.flat().length === 2)
  t.same(backend.payloads.sort(), ['hook', 'late'])
})

test('where it fails after the reply, that is logged', async t => {
  const { app, backend, log } = await createApp(t)
  backend.onStore = async () => { throw new Error('down') }
  app.get('/', (request, reply) => {
    request.backgroundTasks.add(task, 1)
    reply.hijack()
    reply.raw.end('x')
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await until('logged', () => log.find(line => line.msg === 'background task failed' && line.err!.code === 'FST_BGT_STORE_FAILED'))
  t.match(app.backgroundTasks.stats(), { failed: 1 })
})

test('a client that leaves before the answer: stored all the same', async t => {
  const { app, backend } = await createApp(t)
  const [began, go] = [signal(), signal()]
  app.get('/returns', async request => {
    request.backgroundTasks.add(task, 'returns')
    began.resolve()
    await go.promise
    return 'x'
  })
  app.get('/nothing', async (request): Promise<void> => {
    request.backgroundTasks.add(task, 'nothing')
  })
  await getAndLeave(t, app, began.promise, '/returns')
  await turns(20)
  go.resolve()
  await until('stored', () => backend.written.length === 1)
  t.same(backend.payloads, ['returns'])
})

test('flush stores at once the tasks that do not wait for the outcome', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async request => {
    await request.backgroundTasks.flush()
    request.backgroundTasks.add(task, 'now')
    request.backgroundTasks.add({ runOn: 'failure' }, task, 'failure')
    request.backgroundTasks.add({ runOn: () => true }, task, 'predicate')
    await request.backgroundTasks.flush()
    return backend.payloads
  })
  t.same((await app.inject('/')).json(), ['now'])
  t.same(backend.payloads, ['now', 'predicate'])
})

test('a flush that fails can be tried again; a reply waits for a flush without await', async t => {
  const { app, backend } = await createApp(t)
  const go = signal()
  app.get('/caught', async request => {
    request.backgroundTasks.add(task, 'caught')
    backend.onStore = async () => { throw new Error('down') }
    await t.rejects(request.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
    backend.onStore = async tasks => tasks.map(({ id }) => id)
    return 'x'
  })
  app.get('/floating', async request => {
    backend.onStore = async tasks => {
      await go.promise
      return tasks.map(({ id }) => id)
    }
    request.backgroundTasks.add(task, 'floating')
    request.backgroundTasks.flush()
    return 'x'
  })
  t.equal((await app.inject('/caught')).statusCode, 200)
  t.same(backend.payloads, ['caught', 'caught'])
  let answered = false
  const response = app.inject('/floating').then(() => { answered = true })
  await turns(20)
  t.notOk(answered)
  go.resolve()
  await response
  t.same(backend.payloads, ['caught', 'caught', 'floating'])
})

test('released: stored at once; if that fails, again with the reply', async t => {
  const { app, backend, log } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'before')
    request.backgroundTasks.release()
    request.backgroundTasks.add(task, 'after')
    await until('stored', () => backend.written.flat().length === 2)
    backend.onStore = async () => { throw new Error('down') }
    request.backgroundTasks.add(task, 'down')
    await until('tried', () => backend.payloads.includes('down'))
    await turns()
    backend.onStore = async tasks => tasks.map(({ id }) => id)
    return 'x'
  })
  app.get('/stream', (request, reply) => {
    reply.hijack()
    reply.raw.write('x')
    backend.onStore = async () => { throw new Error('down') }
    request.backgroundTasks.release()
    request.backgroundTasks.add(task, 'nobody to tell')
    until('logged', () => log.find(line => line.msg === 'background task failed')).then(() => reply.raw.end())
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
  t.same(backend.payloads, ['before', 'after', 'down', 'down'])
  await (await fetch(`${url}/stream`)).text()
  t.match(app.backgroundTasks.stats(), { failed: 1 })
})

test('released: what was added before is stored at once, though nothing is added after', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(task, 'before')
    request.backgroundTasks.release()
    await until('stored', () => backend.payloads.includes('before'))
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
})

test('released: tasks whose writes are refused one after the other are stored with the reply in the order in which they were added', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.release()
    backend.onStore = async () => { throw new Error('down') }
    for (const payload of ['first', 'second', 'third']) request.backgroundTasks.add(task, payload)
    await until('tried', () => backend.payloads.includes('third'))
    await turns()
    backend.onStore = async tasks => tasks.map(({ id }) => id)
    request.backgroundTasks.add(task, 'fourth')
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.same(backend.payloads, ['first', 'second', 'third', 'first', 'second', 'third', 'fourth'])
})

test('released before its first task: the close does not wait for a request that is long over', async t => {
  const { app } = await createApp(t, { closeTimeout: 60_000 })
  app.get('/', async request => {
    request.backgroundTasks.release()
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await app.close()
  t.match(app.backgroundTasks.stats(), { stored: 1 })
})

test('a task that is cancelled while it is being written: the backend decides', async t => {
  const { app, backend } = await createApp(t, { storeTimeout: 20_000 })
  const go = holdWrites(backend)
  backend.onCancel = async id => id === first.id
  await app.ready()
  const first = app.backgroundTasks.add(task, 1)
  const second = app.backgroundTasks.add(task, 2)
  await until('they are being written', () => backend.written.length === 1)
  const cancelled = Promise.all([first.cancel(), second.cancel()])
  await turns()
  t.same(backend.cancelled, [], 'not before it is there')
  go.resolve()
  t.same(await cancelled, [true, false])
  t.same(backend.cancelled, [first.id, second.id])
  backend.infos.set(first.id, null as never)
  t.equal(await first.settled(), 'cancelled')
})

test('a task that is cancelled during a write that fails', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async request => {
    const handle = request.backgroundTasks.add(task, 1)
    let cancelled: Promise<boolean> | undefined
    backend.onStore = async () => {
      cancelled = handle.cancel()
      throw new Error('down')
    }
    await t.rejects(request.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
    t.equal(await cancelled, true)
    return handle.state
  })
  t.equal((await app.inject('/')).body, 'cancelled')
})

test('a task that is replaced while it is being written is cancelled in the backend', async t => {
  const { app, backend, log } = await createApp(t)
  const go = holdWrites(backend)
  backend.onCancel = async () => { throw new Error('down') }
  app.get('/', async request => {
    const first = request.backgroundTasks.add({ key: 'k' }, task, 1)
    const flushed = request.backgroundTasks.flush()
    await until('it is being written', () => backend.written.length === 1)
    request.backgroundTasks.add({ key: 'k' }, task, 2)
    go.resolve()
    await flushed
    return first
  })
  const { id } = (await app.inject('/')).json<{ id: string }>()
  t.ok(id === undefined || backend.cancelled.length === 1)
  await until('cancelled', () => backend.cancelled.length === 1)
  await until('logged', () => log.find(({ msg }) => msg === 'background task could not be cancelled in the backend'))
})

test('a task with a dedupe id that is replaced while it is being written stays in the backend, and the log says so', async t => {
  const { app, backend, log } = await createApp(t)
  const go = holdWrites(backend)
  let id = ''
  app.get('/', async request => {
    id = request.backgroundTasks.add({ key: 'k', dedupe: 'd' }, task, 1).id
    const flushed = request.backgroundTasks.flush()
    await until('it is being written', () => backend.written.length === 1)
    request.backgroundTasks.add({ key: 'k' }, task, 2)
    go.resolve()
    await flushed
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.same(backend.cancelled, [])
  t.match(log.filter(({ msg }) => msg === 'background task stays in the backend'), [{ level: 40, reqId: 'req-1', task: { id, name: 'task' }, why: 'it has a dedupe id' }])
})

test('a task that is replaced while it is being written, and cannot be cancelled, stays, and the log says why', async t => {
  const { app, backend, log } = await createApp(t)
  const go = holdWrites(backend)
  backend.onCancel = async () => false
  app.get('/', async request => {
    request.backgroundTasks.add({ key: 'k' }, task, 1)
    const flushed = request.backgroundTasks.flush()
    await until('it is being written', () => backend.written.length === 1)
    request.backgroundTasks.add({ key: 'k' }, task, 2)
    go.resolve()
    await flushed
    return 'x'
  })
  t.equal((await app.inject('/')).body, 'x')
  t.match(await until('logged', () => log.find(({ msg }) => msg === 'background task stays in the backend')), { level: 40, reqId: 'req-1', why: 'it has begun' })
})

test('two calls of flush at the same time: the second one waits for the tasks of the first', async t => {
  const { app, backend } = await createApp(t)
  const refuse = async () => { throw new Error('down') }
  app.get('/reply', async request => {
    request.backgroundTasks.add(task, 1)
    request.backgroundTasks.flush()
    await turns()
    backend.onStore = refuse
    request.backgroundTasks.add(task, 2)
    request.backgroundTasks.flush().catch(() => {})
    return 'x'
  })
  app.get('/twice', async request => {
    backend.onStore = refuse
    request.backgroundTasks.add(task, 3)
    const flushed = await Promise.allSettled([request.backgroundTasks.flush(), request.backgroundTasks.flush()])
    backend.onStore = async tasks => tasks.map(({ id }) => id)
    return flushed.map(({ status }) => status)
  })
  let seen = ''
  app.get('/beside', async (request, reply) => {
    const handle = request.backgroundTasks.add(task, 4)
    const flushed = request.backgroundTasks.flush()
    reply.send('x')
    await flushed
    seen = handle.state
    return reply
  })
  t.equal((await app.inject('/reply')).statusCode, 503)
  t.same((await app.inject('/twice')).json(), ['rejected', 'rejected'])
  t.equal((await app.inject('/beside')).statusCode, 200)
  await until('it is flushed', () => seen !== '')
  t.equal(seen, 'stored')
})

test('an instrumentation that throws is a write that fails', async t => {
  const { app, backend } = await createApp(t)
  t.teardown(() => setPropagation(null))
  setPropagation({ inject: () => { throw new Error('no trace') }, refused: () => {}, extract: (_carrier, fn) => fn(), run: (_task, fn) => fn() })
  const handles: TaskHandle[] = []
  app.get('/', async request => {
    handles.push(request.backgroundTasks.add(task, 1))
    return 'x'
  })
  app.get('/hijacked', async (request, reply) => {
    reply.hijack()
    handles.push(request.backgroundTasks.add(task, 2))
    reply.raw.end('x')
  })
  t.equal((await app.inject('/')).statusCode, 503)
  await app.inject('/hijacked')
  handles.push(app.backgroundTasks.add(task, 3))
  t.same(await Promise.all(handles.map(handle => handle.settled())), ['dropped', 'failed', 'failed'])
  t.same(backend.written, [])
})

test('where the backend takes any number of writes, many requests do not wait for the end of their turn', async t => {
  const { app } = await createPlainApp(t)
  const backend = new StubBackend()
  backend.writes = Infinity
  const store = new Store(backend, 20_000)
  await store.open(app.log, () => app.log, new Map())
  const stored = Array.from({ length: 42 }, (_, n) => store.add([storedTask({ name: 'x', id: String(n) })]))
  t.same(backend.written.map(({ length }) => length), [8, 8, 8, 8, 8], 'in this very turn')
  t.same((await Promise.all(stored)).flat(), Array.from({ length: 42 }, (_, n) => String(n)))
  t.same(backend.written.map(({ length }) => length), [8, 8, 8, 8, 8, 2])
})

test('flush waits for tasks that are on their way, and rejects if they are lost', async t => {
  const { app, backend } = await createApp(t)
  const go = holdWrites(backend)
  const replied = signal()
  const seen: unknown[] = []
  const ended = signal()
  app.get('/', async (request, reply) => {
    reply.hijack()
    reply.raw.write('x')
    replied.resolve()
    request.backgroundTasks.release()
    const handle = request.backgroundTasks.add(task, 1)
    await until('it is being written', () => backend.written.length === 1)
    const flushed = request.backgroundTasks.flush().then(() => { seen.push(handle.state) })
    await turns()
    t.same(seen, [], 'it waits')
    go.resolve()
    await flushed
    t.same(seen, ['stored'])
    backend.onStore = async () => { throw new Error('down') }
    const lost = request.backgroundTasks.add(task, 2)
    await until('it could not be stored', () => lost.state === 'failed')
    await t.rejects(request.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
    await t.resolves(request.backgroundTasks.flush(), 'told once')
    reply.raw.end()
    ended.resolve()
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  await ended.promise
})

test('a refused batch with a dedupe id is not cancelled: another request may rely on it', async t => {
  const { app, backend } = await createApp(t, { storeTimeout: 50 })
  const go = holdWrites(backend)
  app.get('/', async request => {
    request.backgroundTasks.add({ dedupe: 'x' }, task, 1)
    request.backgroundTasks.add(task, 2)
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 503)
  go.resolve()
  await until('cancelled', () => backend.cancelled.length === 1)
  await turns(20)
  t.same(backend.cancelled, [backend.written.flat().find(({ dedupe }) => dedupe === null)!.id])
})

test('the application\'s own tasks: a failure is logged, and flush tells', async t => {
  const { app, backend, log } = await createApp(t)
  backend.onStore = async () => { throw new Error('down') }
  await app.ready()
  const handle = app.backgroundTasks.add(task, 1)
  await t.rejects(app.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED', statusCode: 503 })
  t.equal(await handle.settled(), 'failed')
  await until('logged', () => log.find(line => line.msg === 'background task failed'))
  await app.backgroundTasks.flush()
})

test('tasks that are added before the start are stored with it', async t => {
  const { app, backend } = await createApp(t, { worker: { concurrency: 7 } })
  const handle = app.backgroundTasks.add(task, undefined)
  t.equal(await app.backgroundTasks.find(handle.id).then(info => info?.state), 'pending')
  await turns()
  t.same(backend.written, [])
  await app.ready()
  await app.backgroundTasks.flush()
  t.same(backend.payloads, [undefined])
  t.equal(backend.concurrency, 7)
  t.equal(handle.state, 'stored')
})

test('a definition with local: true, and plain functions, stay here', async t => {
  let ran = 0
  const local = defineTask('local', async () => { ran++ }, { local: true })
  const { app, backend } = await createApp(t, { tasks: [task, local] })
  app.get('/', async request => {
    request.backgroundTasks.add(local)
    request.backgroundTasks.add(() => { ran++ })
    return 'x'
  })
  await app.inject('/')
  await app.backgroundTasks.idle()
  t.equal(ran, 2)
  t.same(backend.written, [])
})

test('capture needs no backend', async t => {
  const { app, backend } = await createApp(t, { mode: 'capture' })
  backend.onStart = async () => { t.fail('must not start') }
  app.get('/', async request => {
    request.backgroundTasks.add(task, 1)
    return 'x'
  })
  await app.inject('/')
  await app.backgroundTasks.idle()
  t.match(app.backgroundTasks.captured, [{ name: 'task', payload: 1 }])
})

for (const where of ['onStart', 'onWork'] as const) {
  test(`the start fails clearly: ${where}`, async t => {
    for (const [action, message] of [[never, /stub received no answer within 1000 ms/], [async () => { throw new Error('no such host') }, /stub received no such host/]] as const) {
      const { app, backend } = await createApp(t, { worker: {} })
      backend[where] = action
      const early = app.backgroundTasks.add(task, 1)
      await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message })
      if (where === 'onStart') t.equal(await early.settled(), 'failed')
      t.equal(backend.closes, 1, 'nothing is left open')
      await app.close()
      t.equal(backend.closes, 1)
    }
  })
}

test('a start that fails rejects at once; the close waits until the backend has disconnected', async t => {
  const { app, backend } = await createApp(t, { storeTimeout: 20_000 })
  const go = signal()
  let letGo = false
  backend.onStart = async () => { throw new Error('down') }
  backend.onClose = async () => {
    await go.promise
    letGo = true
  }
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED' })
  t.notOk(letGo)
  const closed = app.close()
  go.resolve()
  await closed
  t.ok(letGo)
})

test('a request\'s tasks are stored in the order in which they were added, also at a second try', async t => {
  const { app, backend } = await createApp(t)
  app.get('/', async request => {
    for (const n of [1, 2, 3]) request.backgroundTasks.add(task, n)
    await t.rejects(request.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
    backend.onBatch = () => null
    request.backgroundTasks.add(task, 4)
    return 'x'
  })
  backend.onBatch = () => new Error('not now')
  t.equal((await app.inject('/')).statusCode, 200)
  t.same(backend.payloads, [1, 2, 3, 1, 2, 3, 4])
})

test('a backend serves one registration at a time, and that one is not disturbed', async t => {
  const { app, backend } = await createApp(t, { worker: {} })
  await app.ready()
  const { app: second } = await createApp(t, { worker: {} }, backend)
  await t.rejects(async () => { await second.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /stub received a second registration .* make a backend for each/ })
  await second.close()
  t.equal(backend.closes, 0)
  t.equal(await app.backgroundTasks.add(task, 1).settled().then(() => backend.payloads.length), 1)
  await app.close()
  const { app: third } = await createApp(t, { worker: {} }, backend)
  await t.resolves(async () => { await third.ready() }, 'one after the other')
})

test('a missing package is named as it is', async t => {
  const { app, backend } = await createApp(t)
  backend.onStart = async () => { throw new errorCodes.FST_BGT_MISSING_PACKAGE('stub', 'stub') }
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_MISSING_PACKAGE', message: /npm install stub/ })
})

test('close is bounded, whatever the server does', async t => {
  const { app, backend, log } = await createApp(t, { closeTimeout: 50 })
  backend.onPause = never
  backend.onClose = never
  await app.ready()
  await ends('the close', app.close())
  t.equal(log.filter(({ msg }) => msg === 'stub could not be closed').length, 2)
})

test('a backend has a second more than storeTimeout to break its connections', async t => {
  const { app, backend, log } = await createApp(t, { storeTimeout: 50 })
  // Later than the timeout, and by the same clock: a busy machine delays both.
  backend.onClose = () => sleep(100)
  await app.ready()
  await app.close()
  t.same(log.filter(({ level }) => level >= 40), [])
})

test('with the longest storeTimeout the backend still has time to close', async t => {
  const { app, log, backend } = await createApp(t, { storeTimeout: MAX_TIMER_MS })
  backend.onClose = () => new Promise(resolve => { setTimeout(resolve, 20) })
  await app.ready()
  await app.close()
  t.same(log.filter(({ level }) => level >= 40), [])
})

test('a task of the application that is being written at the close has failed, and is reported', async t => {
  const { app, backend, log } = await createApp(t, { storeTimeout: 200, closeTimeout: 20 })
  backend.onStore = never
  await app.ready()
  const handle = app.backgroundTasks.add(task, 1)
  await until('it is being written', () => backend.written.length === 1)
  const flushed = t.rejects(app.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
  await app.close()
  await flushed
  t.equal(handle.state, 'failed')
  t.match(log.filter(({ msg }) => msg === 'background task failed'), [{ task: { id: handle.id } }])
})

test('before its start and after its close the backend is not asked', async t => {
  const { app, backend } = await createApp(t, { closeTimeout: 50 })
  const id = '11111111-2222-4333-8444-555555555555'
  backend.onFind = async () => t.fail('must not be asked') as never
  t.equal(await app.backgroundTasks.find(id), null)
  const handle = app.backgroundTasks.add(task, 1)
  await app.close()
  t.equal(await handle.settled(), 'failed')
  const other = await createApp(t)
  await other.app.ready()
  const stored = other.app.backgroundTasks.add(task, 1)
  await other.app.backgroundTasks.flush()
  await other.app.close()
  t.equal(await stored.settled(), 'stored')
  t.equal(await stored.cancel(), false)
})

test('a store that is closed refuses', async t => {
  const backend = new StubBackend()
  const store = new Store(backend, 100)
  const waiting = store.add([])
  waiting.catch(() => {})
  await store.close()
  await t.rejects(waiting, { code: 'FST_BGT_STORE_FAILED' })
  await t.rejects(store.add([]), { code: 'FST_BGT_STORE_FAILED', message: /the application has closed/ })
  await store.close()
  t.equal(backend.closes, 0, 'one that was never opened')
})

test('settled follows a task into the backend', async t => {
  const { app, backend } = await createApp(t)
  await app.ready()
  const add = async (ask = true) => {
    const handle = app.backgroundTasks.add(task, 1)
    const early = ask ? handle.settled() : undefined
    await app.backgroundTasks.flush()
    return { handle, early }
  }
  const info = { name: 'task', attempts: 1, progress: undefined, result: undefined, error: undefined }
  let asked = 0
  backend.onFind = async id => {
    asked++
    if (asked === 1) return { ...info, id, state: 'running' }
    if (asked === 2) throw new Error('away for a moment')
    return { ...info, id, state: 'completed' }
  }
  const first = await add()
  t.equal(await first.early, 'completed')
  t.equal(await first.handle.settled(), 'completed')
  backend.onFind = async () => null
  const forgotten = await add()
  t.equal(await forgotten.handle.settled(), 'stored')
  const cancelled = await add(false)
  t.equal(await cancelled.handle.cancel(), true)
  t.equal(await cancelled.handle.settled(), 'cancelled')
  backend.onStore = async tasks => tasks.map(() => 'another')
  const dropped = await add()
  t.equal(await dropped.early, 'dropped')
})

test('more tasks than are looked at in one turn are stored with one reply, each with its own answer', async t => {
  const { app, backend } = await createApp(t)
  backend.onStore = async tasks => tasks.map(({ id }, index) => index === 7 ? 'another' : id)
  let handles: TaskHandle[] = []
  app.get('/', async request => {
    handles = Array.from({ length: 2_500 }, (_, n) => request.backgroundTasks.add({ dedupe: String(n) }, task, n))
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.equal(backend.written.flat().length, handles.length)
  t.same(new Set(handles.map(({ state }) => state)), new Set(['stored', 'dropped']))
  t.equal(handles.findIndex(({ state }) => state === 'dropped'), 7)
})

test('a request keeps no task that was cancelled before it was stored', async t => {
  const { app } = await createApp(t)
  app.get('/', async ({ backgroundTasks }) => {
    const cancelled = async () => {
      const handle = backgroundTasks.add(task, 1)
      await handle.cancel()
      return new WeakRef(handle)
    }
    const handle = await cancelled()
    await backgroundTasks.flush()
    await turns(2)
    gc()
    return handle.deref()?.state ?? 'collected'
  })
  t.equal((await app.inject('/')).body, 'collected')
})
