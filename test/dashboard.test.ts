import basicAuth from '@fastify/basic-auth'
import Fastify, { type FastifyInstance } from 'fastify'
import { once } from 'node:events'
import { constants } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { build } from '../examples/dashboard'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../index'
import { dashboard, type DashboardOptions } from '../lib/dashboard'
import type { ListedTask } from '../lib/backends/backend'
import type { Second } from '../lib/dashboard/monitor'
import { openStream, type Told } from './support/dashboard'
import { StubBackend } from './support/stub-backend'
import { http2Client, rawClient } from './support/client'
import { createApp, listen, settled, signal, turns } from './support/server'
import { until } from './support/conformance'

/* What the dashboard's routes answer; what the page makes of it is in dashboard-browser.test.ts. */

const ACTION = { 'x-background-tasks-dashboard': '1' }
const ROUTES = ['/', '/page.css', '/page.js', '/icon.svg', '/events']

async function serve (t: Test, options: BackgroundTasksOptions = {}, dashboardOptions: DashboardOptions = {}, routes = (_app: FastifyInstance): void => {}) {
  const { app } = await createApp(t, { closeTimeout: 100, ...options })
  await app.register(dashboard, { prefix: '/tasks', ...dashboardOptions })
  routes(app)
  const { url, port } = await listen(app)
  const act = async (id: string, action: 'cancel' | 'run-again', headers: Record<string, string> = ACTION) => {
    const response = await fetch(`${url}/tasks/tasks/${id}/${action}`, { method: 'POST', headers })
    return { status: response.status, body: await response.json() as { done?: boolean, code?: string, message?: string } }
  }
  return { app, url: `${url}/tasks`, port, act, stream: () => openStream(t, `${url}/tasks/events`) }
}

test('the page and its parts, under a strict policy, and nothing from elsewhere', async t => {
  const { url } = await serve(t)
  for (const [path, type] of [['/', 'text/html; charset=utf-8'], ['/page.css', 'text/css; charset=utf-8'], ['/page.js', 'text/javascript; charset=utf-8'], ['/icon.svg', 'image/svg+xml']] as const) {
    const response = await fetch(url + path)
    t.equal(response.status, 200, path)
    t.equal(response.headers.get('content-type'), type)
    t.equal(response.headers.get('x-content-type-options'), 'nosniff')
    const policy = response.headers.get('content-security-policy') as string
    for (const rule of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]) t.ok(policy.includes(rule), rule)
    t.notMatch(policy, 'unsafe')
    const body = (await response.text()).replaceAll(/http:\/\/www\.w3\.org\/2000\/svg/g, '')
    t.notMatch(body, /https?:\/\//, 'nothing from elsewhere')
    t.notMatch(body, /innerHTML|insertAdjacentHTML|document\.write|eval\(| style="| on\w+="/)
    if (path === '/') t.notMatch(body, /(?:src|href)="\//, 'relative, to work behind any prefix')
  }
})

test('the address without a slash at its end leads to the one with it', async t => {
  const { url } = await serve(t, {}, { prefix: '/a/b' } as DashboardOptions)
  const at = new URL('/a/b', url)
  const bare = await fetch(`${at}?x=1`, { redirect: 'manual' })
  t.equal(bare.status, 302)
  t.equal(bare.headers.get('location'), './b/?x=1')
  const response = await fetch(at)
  t.equal(response.url, `${at}/`)
  t.equal(response.status, 200)
})

test('without a prefix it has the whole of the address', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  await app.register(dashboard)
  const { url } = await listen(app)
  t.match(await (await fetch(url)).text(), '<title>Background tasks</title>')
})

test('the example: without the password, no route answers', async t => {
  const app = await build({ password: 'secret' })
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const at = `${url}/tasks`
  const headers = { authorization: `Basic ${Buffer.from('admin:secret').toString('base64')}`, ...ACTION }
  const wrong = { authorization: `Basic ${Buffer.from('admin:other').toString('base64')}`, ...ACTION }
  const posts = ['/tasks/x/cancel', '/tasks/x/run-again'].map(path => [path, 'POST'] as const)
  const requests = [['', 'GET'] as const, ...ROUTES.flatMap(path => [[path, 'GET'], [path, 'HEAD']] as const), ...posts]
  for (const [path, method] of requests) {
    for (const given of [ACTION, wrong]) {
      const response = await fetch(at + path, { method, headers: given, redirect: 'manual' })
      t.equal(response.status, path === '/events' && method === 'HEAD' ? 404 : 401, `${method} ${path}`)
      t.notMatch(await response.text(), /<html|data:|--ground|EventSource|svg/)
    }
  }
  const page = await fetch(`${at}/`, { headers })
  t.equal(page.status, 200)
  for (const [path] of posts) t.same(await (await fetch(at + path, { method: 'POST', headers })).json(), { done: false })
  const stream = await openStream(t, `${at}/events`, headers)
  await fetch(`${url}/resize/1`, { method: 'POST' })
  const told = await stream.until(({ tasks }) => tasks.some(({ name, state }) => name === 'notify' && state === 'retrying'))
  t.match(told.tasks.find(({ name }) => name === 'notify'), { why: 'Error: no mailbox someone@example.com', attempt: 1, attempts: 3 })
  const [{ id }] = told.tasks.filter(({ name }) => name === 'notify') as [Told['tasks'][number]]
  t.same(await (await fetch(`${at}/tasks/${id}/cancel`, { method: 'POST', headers })).json(), { done: true })
})

test('several preHandlers, async too', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  await app.register(basicAuth, { validate: async () => { seen.push('first') } })
  await app.register(dashboard, { preHandler: [app.basicAuth, async () => { seen.push('second') }] })
  const { url } = await listen(app)
  t.equal((await fetch(`${url}/page.js`)).status, 401)
  t.equal((await fetch(`${url}/page.js`, { headers: { authorization: `Basic ${btoa('a:b')}` } })).status, 200)
  t.same(seen, ['first', 'second'])
})

test('actions that another page could have sent are refused', async t => {
  const { app, url, act } = await serve(t)
  const { host } = new URL(url)
  const handle = app.backgroundTasks.add({ delay: 60_000 }, () => {})
  const refused: Array<Record<string, string>> = [
    {},
    { 'sec-fetch-site': 'same-origin' },
    { ...ACTION, 'sec-fetch-site': 'cross-site' },
    { ...ACTION, 'sec-fetch-site': 'same-site' },
    { ...ACTION, 'sec-fetch-site': 'none' },
    { ...ACTION, origin: 'https://example.com' },
    { ...ACTION, origin: 'null' },
    { ...ACTION, origin: `http://${host}.example.com` },
    { ...ACTION, origin: `http://${host}`, 'sec-fetch-site': 'cross-site' },
    { origin: `http://${host}`, 'content-type': 'application/x-www-form-urlencoded' }
  ]
  for (const headers of refused) {
    for (const action of ['cancel', 'run-again'] as const) {
      const { status, body } = await act(handle.id, action, headers)
      t.equal(status, 403, JSON.stringify(headers))
      t.equal(body.code, 'FST_BGT_FOREIGN_PAGE')
    }
  }
  t.equal(handle.state, 'pending')
  for (const headers of [ACTION, { ...ACTION, 'sec-fetch-site': 'same-origin' }, { ...ACTION, origin: `http://${host}` }, { ...ACTION, origin: `https://${host}` }]) {
    t.same(await act('unknown', 'cancel', headers), { status: 200, body: { done: false } })
  }
  t.equal((await fetch(`${url}/tasks/${handle.id}/cancel`, { headers: ACTION })).status, 404, 'by GET there are none')
  await handle.cancel()
})

test('what the page is told of the tasks of this process', async t => {
  const end = signal()
  const defined = defineTask('defined', async ({ secret }: { secret: string }, ctx) => {
    ctx.progress(secret.length)
    await end.promise
  }, { timeout: 5_000_000 })
  const { app } = await createApp(t, { tasks: [defined], concurrency: 2, closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks' })
  app.post('/', async request => {
    request.backgroundTasks.add(defined, { secret: 'hidden' })
    request.backgroundTasks.add(function next (_secret: string) {}, 'hidden')
    return 'x'
  })
  app.get('/held', async request => {
    request.backgroundTasks.release()
    request.backgroundTasks.add({ runOn: 'always' }, function released () {})
    request.backgroundTasks.add({ runOn: 'failure' }, function collected () {})
    await end.promise
    return 'x'
  })
  const { url } = await listen(app)
  t.teardown(() => end.resolve())
  await fetch(url, { method: 'POST' })
  const held = fetch(`${url}/held`)
  app.backgroundTasks.add({ signal: true, timeout: 10_000 }, async function hang (signal) { await once(signal, 'abort') })
  app.backgroundTasks.add(function queued () {})
  await until('all are there', () => app.backgroundTasks.stats().running === 2 && app.backgroundTasks.stats().collecting === 1)
  const { tasks, counts, concurrency, backend, full, failures } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match({ full, concurrency, backend, failures }, { full: true, concurrency: 2, backend: null, failures: { added: [], removed: [] } })
  t.match(counts, { running: 2, waiting: 3, delayed: 0, retrying: 0, collecting: 1 })
  const of = (name: string) => tasks.find(task => task.name === name)
  t.match(of('defined'), { requestId: 'req-1', state: 'running', attempt: 1, attempts: 1, progress: { percent: 6, text: '6' }, behind: 1, cancellable: true, stored: false, why: 'Its timeout ends it 83 min after its attempt began.' })
  t.ok(Math.abs(of('defined')!.since! - Date.now()) < 60_000)
  t.match(of('next'), { state: 'waiting', why: "It waits for 'defined', of the same request.", cancellable: true })
  t.match(of('hang'), { requestId: null, state: 'running', cancellable: true, behind: 0, why: 'Its timeout ends it 10 s after its attempt began.' })
  t.match(of('queued'), { state: 'waiting', why: 'All 2 places are taken.' })
  t.match(of('collected'), { state: 'collecting', why: 'Its request has not been answered yet.' })
  t.notMatch(JSON.stringify(tasks), 'hidden')
  end.resolve()
  await held
})

test('payloads are shown to those who ask for them', async t => {
  const end = signal()
  const defined = defineTask('defined', async (_payload: object) => { await end.promise })
  const without = defineTask('without', async () => { await end.promise })
  const hostile = new Proxy({}, { getPrototypeOf () { throw new Error('no') }, get () { throw new Error('no') } })
  const { app, stream } = await serve(t, { tasks: [defined, without] }, { payload: true })
  t.teardown(() => end.resolve())
  app.backgroundTasks.add(defined, { order: 5 })
  app.backgroundTasks.add(without)
  app.backgroundTasks.add(async function plain (..._args: unknown[]) { await end.promise }, { a: '<b>' }, 7)
  app.backgroundTasks.add(async function long (_text: string) { await end.promise }, 'x'.repeat(10_000))
  app.backgroundTasks.add(async function hard (_what: object) { await end.promise }, { [Symbol.for('nodejs.util.inspect.custom')] () { throw new Error('no') } })
  app.backgroundTasks.add(function broken (_what: object) { throw new Error('broken') }, hostile)
  await settled(app, { running: 5, failed: 1 })
  const { tasks, failures } = await (await stream()).first
  const of = (name: string) => tasks.find(task => task.name === name)!.payload
  t.equal(of('defined'), '{"order":5}')
  t.equal(of('without'), '')
  t.equal(of('plain'), "[ { a: '<b>' }, 7 ]")
  t.ok(of('long')!.length <= 2_000)
  t.equal(of('hard'), 'what cannot be shown')
  t.type(failures.added[0]!.payload, 'string')
})

test('what is shown is bounded: names, ids of requests, arguments, stacks; and arguments are written out once', async t => {
  const { app, stream } = await serve(t, {}, { payload: true }, app => {
    app.addHook('onRequest', async request => { request.id = 'i'.repeat(10_000) })
    app.get('/', async request => {
      request.backgroundTasks.add({ delay: 60_000, name: 'n'.repeat(10_000) }, () => {})
      return 'x'
    })
  })
  let written = 0
  const argument = { [Symbol.for('nodejs.util.inspect.custom')]: () => `written ${++written}` }
  app.backgroundTasks.add({ delay: 60_000, name: 'deep' }, (..._args: unknown[]) => {}, argument, { a: { b: { c: 1 } } })
  app.backgroundTasks.add(function fail () { throw new Error('long '.repeat(5_000), { cause: new Error('the cause') }) })
  await settled(app, { pending: 1, failed: 1 })
  await app.inject('/')
  const viewer = await stream()
  const { tasks, failures: { added } } = await viewer.first
  t.match(tasks.find(({ requestId }) => requestId !== null), { name: `${'n'.repeat(99)}…`, requestId: `${'i'.repeat(99)}…` })
  t.equal(tasks.find(({ name }) => name === 'deep')!.payload, '[ written 1, { a: { b: [Object] } } ]')
  await viewer.next()
  t.equal(written, 1)
  t.match(added[0]!.stack, 'caused by Error: the cause')
  t.ok(added[0]!.stack.length <= 4_001)
})

test('progress: a share of a whole, or whatever else', async t => {
  const values: Array<[unknown, number | null]> = [
    [0, 0], [42, 42], [100, 100], [101, null], [-1, null], ['half', null], [null, null], [{ page: 3, pages: 4 }, 75], [[1, 2], 50],
    [{ done: 3, of: 2 }, null], [{ done: 0, of: 0 }, null], [{ done: -1, of: 2 }, null], [{ done: 1 }, null], [{ done: '1', of: 2 }, null], [{ done: 1, of: '2' }, null], [{ a: 1, b: 2, c: 3 }, null]
  ]
  const end = signal()
  const report = defineTask('report', async (index: number, ctx) => {
    ctx.progress(values[index]![0])
    await end.promise
  })
  const { app, stream } = await serve(t, { tasks: [report] })
  t.teardown(() => end.resolve())
  values.forEach((_value, index) => app.backgroundTasks.add({ name: String(index) }, report, index))
  await settled(app, { running: values.length })
  const { tasks } = await (await stream()).first
  values.forEach(([value, percent], index) => t.equal(tasks.find(({ name }) => name === String(index))!.progress!.percent, percent, JSON.stringify(value)))
})

test('failures from before the first look, with what caused them; and what runs again has all it had', async t => {
  const seen: unknown[] = []
  let broken = true
  const cause = new Error('the first cause')
  const defined = defineTask('defined', async (payload: { n: number }, ctx) => {
    if (broken) throw new Error('outer', { cause: new Error('inner', { cause }) })
    seen.push([ctx.name, payload, ctx.attempt])
  })
  const { app, stream, act } = await serve(t, { tasks: [defined] })
  app.backgroundTasks.add({ name: 'other name' }, defined, { n: 1 })
  app.backgroundTasks.add(function plain (a: number, b: string) {
    // eslint-disable-next-line no-throw-literal -- what is no error is what is tested
    if (broken) throw 'a string'
    seen.push([a, b])
  }, 1, 'b')
  app.backgroundTasks.add({ signal: true, attempts: 2, backoff: 0 }, function optioned (a: number, signal) {
    // A cause that cannot be read.
    if (broken) throw Object.defineProperty(new Error('unreadable'), 'cause', { get () { throw new Error('no') } })
    seen.push([a, signal.aborted])
  }, 3)
  app.backgroundTasks.add({ backoff: 5 }, function withBackoff () {
    if (broken) throw new Error(`${'long '.repeat(100)}\nsecond line`)
    seen.push('backoff')
  })
  await settled(app, { failed: 4, retried: 1 })
  const first = await stream()
  const { failures: { added } } = await first.first
  const of = (name: string) => added.find(failure => failure.name === name)!
  t.match(of('other name'), { requestId: null, attempt: 1, again: true, error: 'Error: outer', stack: /Error: outer\n {4}at .*caused by Error: inner\n.*caused by Error: the first cause/s })
  t.match(of('plain'), { error: "'a string'", stack: "'a string'" })
  t.match(of('optioned'), { error: 'Error: unreadable', attempt: 2 })
  t.equal(of('withBackoff').error.length, 200)
  t.notOk('payload' in of('plain'))
  broken = false
  for (const { id } of added) t.same(await act(id, 'run-again'), { status: 200, body: { done: true } })
  t.same(await act(added[0]!.id, 'run-again'), { status: 200, body: { done: false } }, 'once')
  await settled(app, { failed: 4, retried: 1, completed: 4 })
  t.same(new Set(seen), new Set([['other name', { n: 1 }, 1], [1, 'b'], [3, false], 'backoff']))
  t.equal(seen.length, 4)
  const { failures: { removed } } = await first.until(({ failures }) => failures.removed.length !== 0)
  t.same([...removed].sort(), added.map(({ id }) => id).sort())
})

test('so many failures are kept, and no more; what cannot be added again says so and stays', async t => {
  const end = signal()
  const { app, stream, act } = await serve(t, { maxPending: 3 }, { failures: 2 })
  t.teardown(() => end.resolve())
  for (const name of ['one', 'two', 'three']) app.backgroundTasks.add({ name }, () => { throw new Error(name) })
  await settled(app, { failed: 3 })
  const { failures: { added } } = await (await stream()).first
  t.same(added.map(({ name }) => name), ['two', 'three'])
  for (let i = 0; i < 3; i++) app.backgroundTasks.add(async () => { await end.promise })
  t.match(await act(added[0]!.id, 'run-again'), { status: 503, body: { code: 'FST_BGT_OVERLOADED' } })
  end.resolve()
  await settled(app, { failed: 3, completed: 3 })
  t.match(await act(added[0]!.id, 'run-again'), { status: 200, body: { done: true } })
})

test('a hundred tasks of a state are shown, those that are longest at it; what runs is found behind them all', async t => {
  const { app, stream } = await serve(t)
  for (let i = 0; i < 5_100; i++) app.backgroundTasks.add({ name: `${i}`, delay: 60_000 }, () => {})
  // Behind what is looked at.
  app.backgroundTasks.add(async function last () { await sleep(60_000, undefined, { ref: false }) })
  await settled(app, { pending: 5_100, running: 1 })
  const { tasks, counts } = await (await stream()).first
  t.same(tasks.map(({ name }) => name), [...Array.from({ length: 100 }, (_, i) => `${i}`), 'last'])
  t.match(counts, { delayed: 5_100, running: 1 })
  t.match(tasks[0], { state: 'delayed', why: 'It was added with a delay.' })
  t.ok(tasks[0]!.due! > Date.now() + 50_000)
})

test('under onFailure: stop, tasks wait for the next attempt of another', async t => {
  const { app } = await createApp(t, { onFailure: 'stop', closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks' })
  app.post('/', async request => {
    request.backgroundTasks.add({ attempts: 2, backoff: 60_000 }, function fails () { throw new Error('not yet') })
    request.backgroundTasks.add(function next () {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url, { method: 'POST' })
  await settled(app, { pending: 2, retried: 1 })
  const { tasks, counts } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(counts, { waiting: 1, retrying: 1 })
  t.match(tasks.find(({ name }) => name === 'next'), { state: 'waiting', why: "It waits for the next attempt of 'fails', of the same request." })
  t.match(tasks.find(({ name }) => name === 'fails'), { state: 'retrying', why: 'Error: not yet', attempt: 1, attempts: 2 })
})

test('a task that waits for the only place', async t => {
  const end = signal()
  const { app, stream } = await serve(t, { concurrency: 1 })
  t.teardown(() => end.resolve())
  app.backgroundTasks.add(async () => { await end.promise })
  app.backgroundTasks.add(function queued () {})
  await settled(app, { running: 1, pending: 1 })
  const { tasks } = await (await stream()).first
  t.match(tasks.find(({ name }) => name === 'queued'), { state: 'waiting', why: 'The only place is taken.' })
})

test('what is about to run; and a request that has nothing to do is passed over', async t => {
  const { app, stream } = await serve(t)
  const told = await stream()
  await told.first
  const task = app.backgroundTasks.add({ delay: 60_000 }, function later () {})
  const looked = told.until(({ tasks }) => tasks.length === 1)
  t.match((await looked).tasks, [{ name: 'later' }])
  await task.cancel()
})

test('seconds: what was completed, failed and how long it waited', async t => {
  const { app, stream } = await serve(t, { concurrency: 1 })
  app.backgroundTasks.add(async () => { await sleep(100) })
  app.backgroundTasks.add(() => {})
  app.backgroundTasks.add({ delay: 30 }, () => {})
  app.backgroundTasks.add(() => { throw new Error('x') })
  await settled(app, { completed: 3, failed: 1 })
  const told = await stream()
  const sum = (list: Second[], name: keyof Second) => list.reduce((total, second) => total + second[name], 0)
  const all = [...(await told.first).seconds]
  while (sum(all, 'completed') < 3 || sum(all, 'failed') < 1) all.push(...(await told.next()).seconds)
  t.equal(sum(all, 'completed'), 3)
  t.equal(sum(all, 'begun'), 4)
  t.ok(sum(all, 'waited') >= 150 && sum(all, 'waited') < 60_000, `${sum(all, 'waited')} ms`)
  t.ok(all.some(({ longest }) => longest >= 90))
  t.equal(new Set(all.map(({ at }) => at)).size, all.length, 'each second once')
})

test('a viewer that does not read is dropped, and the others are not', async t => {
  const { app, port, stream } = await serve(t, {}, { payload: true })
  // What the kernel would take for a client that does not read is much, and not the same everywhere.
  app.server.once('connection', socket => { socket.cork() })
  const slow = await rawClient(t, port)
  const left = once(slow.socket, 'close')
  slow.send('GET', '/tasks/events')
  const quick = await stream()
  await quick.first
  for (let i = 0; i < 100; i++) app.backgroundTasks.add({ delay: 600_000 }, (_text: string) => {}, 'x'.repeat(9_000))
  for (let i = 0; i < 100; i++) app.backgroundTasks.add((_text: string) => { throw new Error('x'.repeat(4_000)) }, 'x'.repeat(9_000))
  let bytes = 0
  const state = { gone: false }
  left.then(() => { state.gone = true })
  while (!state.gone) bytes += JSON.stringify(await quick.next()).length
  t.ok(bytes > 1_000_000 && bytes < 8_000_000, `${bytes} bytes`)
  t.ok(await quick.next())
})

test('a hundred viewers, and no more', async t => {
  const { url, stream } = await serve(t)
  const viewers = []
  for (let i = 0; i < 100; i++) viewers.push(await stream())
  await viewers.at(-1)!.first
  const refused = await fetch(`${url}/events`)
  t.equal(refused.status, 503)
  t.match(await refused.json(), { code: 'FST_BGT_TOO_MANY_VIEWERS' })
  viewers[0]!.close()
  await until('there is room', async () => {
    const response = await fetch(`${url}/events`)
    await response.body!.cancel()
    return response.status === 200
  })
})

test('the close of the application ends the streams; one that breaks harms nothing', async t => {
  const { app, port, stream } = await serve(t)
  const client = await rawClient(t, port)
  client.send('GET', '/tasks/events')
  await client.until('data: ')
  client.leave()
  const told = await stream()
  await told.first
  const [ended] = await Promise.all([told.ended, app.close()])
  t.equal(ended, true)
})

test('one that is still to be admitted when the application closes does not hold it', async t => {
  const asked = signal()
  const admitted = signal()
  const { app } = await createApp(t, {}, { forceCloseConnections: false })
  await app.register(dashboard, {
    prefix: '/tasks',
    preHandler: async () => {
      asked.resolve()
      await admitted.promise
    }
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/tasks/events')
  await asked.promise
  const left = once(client.socket, 'close')
  const closed = app.close()
  await turns()
  admitted.resolve()
  await Promise.all([closed, left])
})

test('over HTTP/2 too; those that leave before they are admitted take no place', async t => {
  let wait: Promise<void> | null = null
  const app = Fastify({ http2: true, http2SessionTimeout: 100 }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  await app.register(dashboard, { prefix: '/tasks', preHandler: async () => { await wait } })
  const { url } = await listen(app)
  const session = await http2Client(t, url)
  const admitted = signal()
  wait = admitted.promise
  const early = Array.from({ length: 100 }, () => session.request({ ':path': '/tasks/events' }))
  await turns()
  for (const stream of early) stream.close(constants.NGHTTP2_CANCEL)
  await Promise.all(early.map(stream => once(stream, 'close')))
  admitted.resolve()
  wait = null
  // A session has room for a hundred streams, and the server may still count those.
  const other = await http2Client(t, url)
  const stream = other.request({ ':path': '/tasks/events' })
  const [{ ':status': status }] = await once(stream, 'response')
  t.equal(status, 200)
  stream.setEncoding('utf8')
  let text = ''
  while (!text.includes('"full":false')) text += (await once(stream, 'data'))[0]
  t.match(text, /^retry: 1000\ndata: /)
  session.destroy()
  other.destroy()
})

test('it needs the plugin, and is registered once', async t => {
  const bare = Fastify()
  bare.register(dashboard)
  await t.rejects(async () => { await bare.ready() }, { code: 'FST_BGT_NOT_REGISTERED' })
  const other = Fastify()
  other.decorate('backgroundTasks', {} as never)
  other.register(dashboard)
  await t.rejects(async () => { await other.ready() }, { code: 'FST_BGT_NOT_REGISTERED' })
  const twice = Fastify()
  await twice.register(backgroundTasks)
  twice.register(dashboard, { prefix: '/a' })
  twice.register(dashboard, { prefix: '/b' })
  await t.rejects(async () => { await twice.ready() }, { code: 'FST_BGT_DASHBOARD_REGISTERED' })
})

test('the options are checked', async t => {
  const wrong: Array<[object, string]> = [
    [{ preHandler: 'x' }, 'preHandler'], [{ preHandler: [() => {}, 1] }, 'preHandler'], [{ payload: 'yes' }, 'payload'],
    [{ stuckAfter: -1 }, 'stuckAfter'], [{ failures: 1.5 }, 'failures'], [{ password: 'x' }, 'password']
  ]
  for (const [options, name] of wrong) {
    const app = Fastify()
    await app.register(backgroundTasks)
    app.register(dashboard, options as DashboardOptions)
    await t.rejects(async () => { await app.ready() }, { code: name === 'password' ? 'FST_BGT_UNKNOWN_OPTION' : 'FST_BGT_INVALID_OPTION', message: `'${name}'` })
  }
})

test('what a backend has is shown as if it were here, and can be acted upon', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', async ({ n }: { n: number }) => { throw new Error(`number ${n}`) })
  const id = (n: number) => `00000000-0000-4000-8000-00000000000${n}`
  const listed = (n: number, more: Partial<ListedTask>): ListedTask => ({
    id: id(n), name: 'task', label: `task ${n}`, payload: `{"n":${n}}`, requestId: 'req-7', attempts: 3, state: 'waiting', since: 1_000 * n, due: null, attempt: 0, progress: undefined, error: undefined, ...more
  })
  const counts = { running: 1, waiting: 1, delayed: 1, failed: 1 }
  const retried: string[] = []
  let broken = false
  const limits: number[] = []
  backend.list = async limit => {
    limits.push(limit)
    if (broken) throw new Error('away')
    return {
      counts,
      tasks: [
        listed(1, { state: 'running', attempt: 1, progress: 5, payload: null }), listed(2, {}),
        listed(3, { state: 'retrying', due: 5_000, attempt: 1, error: new Error('not yet') }),
        listed(4, { state: 'failed', attempt: 3, error: new Error('for good') }),
        listed(5, { state: 'failed', attempt: 3, error: new Error('for good'), payload: null })
      ]
    }
  }
  backend.retry = async id => retried.push(id) === 1
  const { url, stream, act } = await serve(t, { tasks: [task], backend }, { payload: true }, app => {
    app.post('/add', async request => {
      request.backgroundTasks.add(task, { n: 9 })
      return 'x'
    })
  })
  const viewer = await stream()
  t.match((await viewer.first).backend, { name: 'stub', counts: null, error: null })
  const told = await viewer.until(({ backend }) => backend!.counts !== null)
  t.same(told.backend, { name: 'stub', counts, error: null })
  t.same(limits.slice(0, 1), [100])
  t.match(told.tasks, [
    { id: id(1), name: 'task 1', requestId: 'req-7', state: 'running', since: 1_000, progress: { percent: 5 }, stored: true, cancellable: false, here: false, why: 'A worker has it, or had it a moment ago.', payload: '' },
    { id: id(2), state: 'waiting', cancellable: true, why: 'It waits for a worker.', attempts: 3, payload: '{"n":2}' },
    { id: id(3), state: 'retrying', due: 5_000, attempt: 1, why: 'Error: not yet' }
  ])
  t.match(told.failures.added, [{ id: id(4), name: 'task 4', at: 4_000, attempt: 3, error: 'Error: for good', again: true, payload: '{"n":4}' }, { id: id(5), payload: '' }])
  t.same(await act(id(2), 'cancel'), { status: 200, body: { done: true } })
  t.same(backend.cancelled, [id(2)])
  t.same(await act('../../etc', 'cancel'), { status: 404, body: { message: 'Route POST:/etc/cancel not found', error: 'Not Found', statusCode: 404 } })
  t.same(await act('no-id', 'cancel'), { status: 200, body: { done: false } }, 'the backend is not asked for what is no id')
  t.same(await act(id(4), 'run-again'), { status: 200, body: { done: true } })
  t.same(await act(id(4), 'run-again'), { status: 200, body: { done: false } })
  t.same(retried, [id(4), id(4)])

  // One that fails here is told at once, and by its own stack; it is the backend that runs it again.
  await backend.deliver({ id: id(6), name: 'task', payload: '{"n":6}' })
  const failed = await viewer.until(({ failures }) => failures.added.length !== 0)
  t.match(failed.failures.added, [{ id: id(6), error: 'Error: number 6', again: true }])
  retried.length = 0
  t.same(await act(id(6), 'run-again'), { status: 200, body: { done: true } })
  t.match((await viewer.until(({ failures }) => failures.removed.length !== 0)).failures.removed, [id(6)])
  broken = true
  t.same((await viewer.until(({ backend }) => backend!.error !== null)).backend, { name: 'stub', counts: null, error: 'away' })

  // On its way there.
  const store = signal<string[]>()
  backend.onStore = () => store.promise
  const answered = fetch(new URL('/add', url), { method: 'POST' })
  const { tasks } = await viewer.until(({ tasks }) => tasks.length !== 0)
  t.match(tasks, [{ name: 'task', state: 'waiting', why: 'It is on its way to stub.', stored: false, payload: '{"n":9}' }])
  store.resolve([tasks[0]!.id])
  t.equal((await answered).status, 200)
})

test('what is run again or called off in a backend is gone at once, and is not told as a new failure', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', async () => { throw new Error('here') })
  const ids = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002'] as const
  const gone = new Set<string>()
  backend.list = async () => ({
    counts: { running: 0, waiting: 1, delayed: 0, failed: 1 },
    tasks: ids.filter(id => !gone.has(id)).map((id, index) => ({
      id, name: 'task', label: 'task', payload: null, requestId: null, attempts: 1, state: index === 0 ? 'failed' : 'waiting', since: 1_000, due: null, attempt: 1, progress: undefined, error: undefined
    }))
  })
  backend.onCancel = async id => gone.add(id).size !== 0
  backend.retry = async id => gone.add(id).size !== 0
  const { stream, act } = await serve(t, { tasks: [task], backend })
  const viewer = await stream()
  await viewer.until(({ tasks }) => tasks.length === 1)
  await backend.deliver({ id: ids[0], name: 'task' })
  await viewer.until(({ failures }) => failures.added.length === 1)
  t.same(await act(ids[0], 'run-again'), { status: 200, body: { done: true } })
  t.same(await act(ids[1], 'cancel'), { status: 200, body: { done: true } })
  const { failures, tasks } = await viewer.next()
  t.same(failures, { added: [], removed: [ids[0]] })
  t.same(tasks, [])
})

test('a list that was asked for before something was run again does not bring it back', async t => {
  const backend = new StubBackend()
  const id = '00000000-0000-4000-8000-000000000001'
  const failed: ListedTask = { id, name: 'task', label: 'task', payload: null, requestId: null, attempts: 1, state: 'failed', since: 1_000, due: null, attempt: 1, progress: undefined, error: undefined }
  const lists: Array<(tasks: ListedTask[]) => void> = []
  backend.list = () => new Promise(resolve => { lists.push(tasks => resolve({ counts: { running: 0, waiting: 0, delayed: 0, failed: tasks.length }, tasks })) })
  backend.retry = async () => true
  const { stream, act } = await serve(t, { backend })
  const viewer = await stream()
  t.equal(lists.length, 1)
  t.same(await act(id, 'run-again'), { status: 200, body: { done: true } })
  lists[0]!([failed])
  t.match(await viewer.next(), { failures: { added: [] }, backend: { counts: null } })
  t.equal(lists.length, 2, 'it is asked anew')
  lists[1]!([])
  t.match(await viewer.until(({ backend }) => backend!.counts !== null), { failures: { added: [] } })
})

test('a backend that gives no list, and runs nothing again', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', async () => { throw new Error('x') })
  const { stream, act } = await serve(t, { tasks: [task], backend })
  const id = '00000000-0000-4000-8000-000000000001'
  await backend.deliver({ id, name: 'task' })
  const viewer = await stream()
  t.match((await viewer.first).failures.added, [{ id, again: false }])
  t.same((await viewer.next()).backend, { name: 'stub', counts: null, error: null })
  t.same(await act(id, 'run-again'), { status: 200, body: { done: false } })
})

test('a task from before the dashboard has no age; a request that has none left is passed over', async t => {
  const end = signal()
  const { app } = await createApp(t)
  app.backgroundTasks.add(async function before () { await end.promise })
  await settled(app, { running: 1 })
  await app.register(dashboard, { prefix: '/tasks' })
  app.get('/stream', async request => {
    request.backgroundTasks.release()
    request.backgroundTasks.add(() => {})
    await end.promise
    return 'x'
  })
  const { url } = await listen(app)
  t.teardown(() => end.resolve())
  const held = fetch(`${url}/stream`)
  await settled(app, { running: 1, completed: 1 })
  const { tasks } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(tasks, [{ name: 'before', since: null }])
  t.equal(tasks.length, 1)
  end.resolve()
  await held
})

test('what is older than five minutes is forgotten', async t => {
  const { now } = Date
  let later = 0
  Date.now = () => now() + later
  t.teardown(() => { Date.now = now })
  const { app, stream } = await serve(t)
  const work = async (completed: number) => {
    app.backgroundTasks.add(() => {})
    await settled(app, { completed })
  }
  await work(1)
  later = 200_000
  await work(2)
  const viewer = await stream()
  t.ok((await viewer.first).seconds.some(({ completed }) => completed === 1))
  viewer.close()
  later = 400_000
  await work(3)
  later = 402_000
  const next = await stream()
  const { seconds } = await next.first
  t.equal(seconds.reduce((sum, { completed }) => sum + completed, 0), 2)
  next.close()
  later = 1_400_000
  t.same((await (await stream()).first).seconds, [])
})

test('a task whose turn comes next', async t => {
  const { app } = await createApp(t)
  await app.register(dashboard, {
    preHandler: (_request, _reply, done) => {
      app.backgroundTasks.add(function soon () {})
      done()
    }
  })
  const { url } = await listen(app)
  const { tasks } = await (await openStream(t, `${url}/events`)).first
  t.match(tasks, [{ name: 'soon', state: 'waiting', why: 'It is about to run.' }])
})
