import basicAuth from '@fastify/basic-auth'
import Fastify, { type FastifyInstance } from 'fastify'
import { once } from 'node:events'
import { constants } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { build } from '../../examples/dashboard'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../../index'
import { dashboard, type DashboardOptions } from '../../lib/dashboard'
import type { ProgressView, SecondView } from '../../lib/dashboard/protocol'
import { detailsAt, listPage, openStream, OWN_PAGE, tasksAt } from '../support/dashboard'
import { http2Client, rawClient } from '../support/client'
import { createApp, listen, settled, signal, turns } from '../support/server'
import { until } from '../support/until'

/* What the dashboard's routes answer; what the page makes of it is in dashboard-browser.test.ts. */

const ROUTES = ['/', '/page.css', '/page.js', '/icon.svg', '/events']

async function serve (t: Test, options: BackgroundTasksOptions = {}, dashboardOptions: DashboardOptions = {}, routes = (_app: FastifyInstance): void => {}) {
  const { app } = await createApp(t, { closeTimeout: 100, ...options })
  await app.register(dashboard, { prefix: '/tasks', ...dashboardOptions })
  routes(app)
  const { url, port } = await listen(app)
  const act = async (id: string, action: 'cancel' | 'run-again', headers: Record<string, string> = OWN_PAGE) => {
    const response = await fetch(`${url}/tasks/tasks/${id}/${action}`, { method: 'POST', headers })
    return { status: response.status, body: await response.json() as { done?: boolean, id?: string, code?: string, message?: string } }
  }
  return { app, url: `${url}/tasks`, port, act, tasks: () => tasksAt(`${url}/tasks`), failed: async () => (await listPage(`${url}/tasks`, 'failed', { order: 'newest' })).tasks, details: (id: string) => detailsAt(`${url}/tasks`, id), stream: () => openStream(t, `${url}/tasks/events`) }
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
    t.notMatch(body.replaceAll(/http:\/\/www\.w3\.org\/\w+\/\w+/g, ''), /https?:\/\//, 'nothing from elsewhere')
    t.notMatch(body, /insertAdjacentHTML|document\.write|eval\(|new Function| style="| on\w+="/)
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
  const headers = { authorization: `Basic ${Buffer.from('admin:secret').toString('base64')}`, ...OWN_PAGE }
  const wrong = { authorization: `Basic ${Buffer.from('admin:other').toString('base64')}`, ...OWN_PAGE }
  const posts = ['/tasks/x/cancel', '/tasks/x/run-again', '/tasks/x/dismiss'].map(path => [path, 'POST'] as const)
  const groups = ['/groups/x/run-again', '/groups/x/dismiss', '/worker/pause', '/worker/resume'].map(path => [path, 'POST'] as const)
  const requests = [['', 'GET'] as const, ['/lists/failed', 'GET'] as const, ['/tasks/x', 'GET'] as const, ...groups, ...ROUTES.flatMap(path => [[path, 'GET'], [path, 'HEAD']] as const), ...posts]
  for (const [path, method] of requests) {
    for (const given of [OWN_PAGE, wrong]) {
      const response = await fetch(at + path, { method, headers: given, redirect: 'manual' })
      t.equal(response.status, path === '/events' && method === 'HEAD' ? 404 : 401, `${method} ${path}`)
      t.notMatch(await response.text(), /<html|data:|--ground|x-background-tasks|svg/)
    }
  }
  const page = await fetch(`${at}/`, { headers })
  t.equal(page.status, 200)
  for (const [path] of posts) t.same(await (await fetch(at + path, { method: 'POST', headers })).json(), { done: false })
  const stream = await openStream(t, `${at}/events`, headers)
  await fetch(`${url}/resize/1`, { method: 'POST' })
  const { retrying: { next } } = await stream.until(({ retrying }) => retrying.count === 1)
  t.match(next, { name: 'notify', state: 'retrying', why: 'Error: no mailbox someone@example.com', attempt: 1, attempts: 3 })
  const { id } = next!
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
    { ...OWN_PAGE, 'sec-fetch-site': 'cross-site' },
    { ...OWN_PAGE, 'sec-fetch-site': 'same-site' },
    { ...OWN_PAGE, 'sec-fetch-site': 'none' },
    { ...OWN_PAGE, origin: 'https://example.com' },
    { ...OWN_PAGE, origin: 'null' },
    { ...OWN_PAGE, origin: `http://${host}.example.com` },
    { ...OWN_PAGE, origin: `http://${host}`, 'sec-fetch-site': 'cross-site' },
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
  for (const headers of [OWN_PAGE, { ...OWN_PAGE, 'sec-fetch-site': 'same-origin' }, { ...OWN_PAGE, origin: `http://${host}` }, { ...OWN_PAGE, origin: `https://${host}` }]) {
    t.same(await act('unknown', 'cancel', headers), { status: 200, body: { done: false } })
  }
  t.equal((await fetch(`${url}/tasks/${handle.id}/cancel`, { headers: OWN_PAGE })).status, 404, 'by GET there are none')
  for (const path of ['lists/later', `tasks/${handle.id}`]) t.equal((await fetch(`${url}/${path}`)).status, 403, 'nor is anything read by another page')
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
  const { totals, places, backend, worker, full, failures, waiting, longest, oldest } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match({ full, backend, worker, failures }, { full: true, backend: null, worker: null, failures: { groups: [], of: 0, more: 0 } })
  t.same(totals, { running: 2, waiting: 4, later: 0, failed: 0 })
  t.same(places, { limit: 2, taken: 2, queued: 3 })
  t.same(waiting.of, 4)
  t.same(waiting.groups.map(({ name }) => name).sort(), ['collected', 'next', 'queued', 'released'])
  t.same(longest.map(({ name }) => name).sort(), ['defined', 'hang'])
  t.type(oldest?.since, 'number')
  const tasks = await tasksAt(`${url}/tasks`)
  const of = (name: string) => tasks.find(task => task.name === name)
  t.match(of('defined'), { requestId: 'req-1', state: 'running', attempt: 1, attempts: 1, progress: { percent: 6, text: '6' }, behind: 1, cancellable: true, stored: false, why: 'Its timeout ends it 83 min after its attempt began.' })
  t.ok(Math.abs(of('defined')!.since! - Date.now()) < 60_000)
  t.match(of('next'), { state: 'waiting', why: "It waits for 'defined', of the same request.", cancellable: true })
  t.match(of('hang'), { requestId: null, state: 'running', cancellable: true, behind: 0, why: 'Its timeout ends it 10 s after its attempt began.' })
  t.match(of('queued'), { state: 'waiting', why: 'All 2 places are taken.' })
  t.match(of('collected'), { state: 'collecting', why: 'Its request has not been answered yet.' })
  t.ok(Math.abs(of('collected')!.since! - Date.now()) < 60_000)
  t.notMatch(JSON.stringify(tasks), 'hidden')
  end.resolve()
  await held
})

test('payloads are shown to those who ask for them', async t => {
  const end = signal()
  const defined = defineTask('defined', async (_payload: object) => { await end.promise })
  const without = defineTask('without', async () => { await end.promise })
  const hostile = new Proxy({}, { getPrototypeOf () { throw new Error('no') }, get () { throw new Error('no') } })
  const { app, tasks, details } = await serve(t, { tasks: [defined, without] }, { payload: true })
  t.teardown(() => end.resolve())
  app.backgroundTasks.add(defined, { order: 5 })
  app.backgroundTasks.add(without)
  app.backgroundTasks.add(async function plain (..._args: unknown[]) { await end.promise }, { a: '<b>' }, 7)
  app.backgroundTasks.add(async function long (_text: string) { await end.promise }, 'x'.repeat(100_000))
  app.backgroundTasks.add(async function hard (_what: object) { await end.promise }, { [Symbol.for('nodejs.util.inspect.custom')] () { throw new Error('no') } })
  app.backgroundTasks.add(function broken (_what: object) { throw new Error('broken') }, hostile)
  await settled(app, { running: 5, failed: 1 })
  const shown = await tasks()
  const of = async (name: string) => (await details(shown.find(task => task.name === name)!.id)).payload
  t.equal(await of('defined'), '{\n  "order": 5\n}')
  t.equal(await of('without'), '')
  t.equal(await of('plain'), "[ { a: '<b>' }, 7 ]")
  t.ok((await of('long'))!.length <= 20_000)
  t.equal(await of('hard'), 'what cannot be shown')
  t.type(await of('broken'), 'string')
})

test('what is shown is bounded: names, ids of requests, arguments, stacks; and arguments are written out once', async t => {
  const { app, tasks: read, details } = await serve(t, {}, { payload: true }, app => {
    app.addHook('onRequest', async request => { request.id = 'i'.repeat(10_000) })
    app.get('/', async request => {
      request.backgroundTasks.add({ delay: 60_000, name: 'n'.repeat(1_000) }, () => {})
      return 'x'
    })
  })
  let written = 0
  const argument = { [Symbol.for('nodejs.util.inspect.custom')]: () => `written ${++written}` }
  app.backgroundTasks.add({ delay: 60_000, name: 'deep' }, (..._args: unknown[]) => {}, argument, { a: { b: { c: { d: 1 } } } })
  app.backgroundTasks.add(function fail () { throw new Error('long '.repeat(5_000), { cause: new Error('the cause') }) })
  await settled(app, { pending: 1, failed: 1 })
  await app.inject('/')
  const tasks = await read()
  t.match(tasks.find(({ requestId }) => requestId !== null), { name: `${'n'.repeat(99)}…`, requestId: `${'i'.repeat(99)}…` })
  const { id } = tasks.find(({ name }) => name === 'deep')!
  t.equal((await details(id)).payload, '[\n  written 1,\n  { a: { b: { c: [Object] } } }\n]')
  // Answers are kept for a second.
  const now = Date.now
  t.teardown(() => { Date.now = now })
  Date.now = () => now() + 2_000
  t.equal((await details(id)).payload, '[\n  written 1,\n  { a: { b: { c: [Object] } } }\n]')
  t.equal(written, 1)
  const [error] = (await details(tasks.find(({ state }) => state === 'failed')!.id)).errors
  t.match(error!.stack, 'caused by Error: the cause')
  t.ok(error!.stack.length <= 6_001)
})

/** An array in an array, and so on, so many in all. */
function nested (depth: number): unknown[] {
  return depth === 1 ? [] : [nested(depth - 1)]
}

/** What the page shows of tasks that note these values. */
async function progressOf (t: Test, values: unknown[]): Promise<ProgressView[]> {
  const end = signal()
  const report = defineTask('report', async (index: number, ctx) => {
    ctx.progress(values[index])
    await end.promise
  })
  const { app, tasks: read } = await serve(t, { tasks: [report] })
  t.teardown(() => end.resolve())
  values.forEach((_value, index) => app.backgroundTasks.add({ name: String(index) }, report, index))
  await settled(app, { running: values.length })
  const tasks = await read()
  return values.map((_value, index) => tasks.find(({ name }) => name === String(index))!.progress!)
}

test('progress: a share of a whole, or whatever else', async t => {
  const values: Array<[unknown, number | null]> = [
    [0, 0], [42, 42], [100, 100], [101, null], [-1, null], ['half', null], [null, null], [{ page: 3, pages: 4 }, 75], [[1, 2], 50], [{ done: 0, of: 4 }, 0], [{ done: 0.5, of: 2 }, 25],
    [{ done: 3, of: 2 }, null], [{ done: 0, of: 0 }, null], [{ done: -1, of: 2 }, null], [{ done: 1 }, null], [{ done: '1', of: 2 }, null], [{ done: 1, of: '2' }, null], [{ a: 1, b: 2, c: 3 }, null]
  ]
  const shown = await progressOf(t, values.map(([value]) => value))
  values.forEach(([value, percent], index) => t.equal(shown[index]!.percent, percent, JSON.stringify(value)))
})

test('progress and results are JSON where they are nothing else, and otherwise as Node shows them', async t => {
  const deep: Record<string, unknown> = {}
  let inner = deep
  for (let i = 0; i < 100_000; i++) inner = inner.in = {} as Record<string, unknown>
  const circle: Record<string, unknown> = {}
  circle.self = circle
  const values: Array<[unknown, string | RegExp]> = [
    [{ files: ['a', { of: null, done: true }] }, '{"files":["a",{"of":null,"done":true}]}'],
    [[1.5, 'two'], '[1.5,"two"]'], [{ at: new Date(0) }, '{"at":"1970-01-01T00:00:00.000Z"}'],
    [{ nothing: undefined }, '{ nothing: undefined }'], [{ rate: NaN }, '{ rate: NaN }'], [new Map([[1, 2]]), 'Map(1) { 1 => 2 }'], [{ size: 5n }, '{ size: 5n }'],
    [{ run () {} }, '{ run: [Function: run] }'], [circle, '<ref *1> { self: [Circular *1] }'], [{ toJSON () { throw new Error('no') } }, '{ toJSON: [Function: toJSON] }'],
    [deep, /^\{\n {2}in: \{/], [nested(50), '['.repeat(50) + ']'.repeat(50)], [nested(51), '[ [ [ [Array] ] ] ]'], [Array(300).fill(1), /^\[\n {2}1, 1, 1/], [{ text: 'x'.repeat(300) }, /^\{\n {2}text: 'xxx/],
    ['half', '"half"'], [null, 'null'], [7, '7']
  ]
  const shown = await progressOf(t, values.map(([value]) => value))
  values.forEach(([, text], index) => t.match(shown[index]!.text, text, String(text)))
})

test('progress whose members cannot be read is shown as it can be, and harms nobody', async t => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const values = [{ get page () { throw new Error('no') }, pages: 2 }, proxy, new Proxy({}, { ownKeys () { throw new Error('no') } })]
  const end = signal()
  const report = defineTask('report', async (index: number, ctx) => {
    ctx.progress(values[index])
    await end.promise
  })
  const { app, stream } = await serve(t, { tasks: [report] })
  t.teardown(() => end.resolve())
  const viewer = await stream()
  await viewer.first
  values.forEach((_value, index) => app.backgroundTasks.add({ name: String(index) }, report, index))
  const { longest: tasks } = await viewer.until(told => told.totals.running === values.length)
  t.same(tasks.map(({ progress }) => progress!.percent), [null, null, null])
  t.equal(tasks.find(({ name }) => name === '0')!.progress!.text, '{ page: [Getter], pages: 2 }')
})

test('failures from before the first look, with what caused them; and what runs again has all it had', async t => {
  const seen: unknown[] = []
  let broken = true
  const cause = new Error('the first cause')
  const defined = defineTask('defined', async (payload: { n: number }, ctx) => {
    if (broken) throw new Error('outer', { cause: new Error('inner', { cause }) })
    seen.push([ctx.name, payload, ctx.attempt])
  })
  const { app, stream, act, failed, details } = await serve(t, { tasks: [defined] })
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
  t.match((await first.first).totals, { failed: 4 })
  const added = await failed()
  const of = (name: string) => details(added.find(failure => failure.name === name)!.id)
  t.match(await of('other name'), { requestId: null, attempt: 1, again: true, error: 'Error: outer', errors: [{ error: 'Error: outer', stack: /Error: outer\n {4}at .*caused by Error: inner\n.*caused by Error: the first cause/s }] })
  t.match(await of('plain'), { error: "'a string'", errors: [{ stack: "'a string'" }] })
  t.match(await of('optioned'), { error: 'Error: unreadable', attempt: 2, errors: [{ error: 'Error: unreadable' }, { error: 'Error: unreadable' }] })
  t.equal((await of('withBackoff')).error!.length, 200)
  t.notOk('payload' in await of('plain'))
  broken = false
  for (const { id } of added) {
    const { body } = await act(id, 'run-again')
    t.match(body, { done: true, id: String })
    t.match(await details(body.id as string), { id: body.id }, 'the new one can be found')
  }
  t.same(await act(added[0]!.id, 'run-again'), { status: 200, body: { done: false } }, 'once')
  await settled(app, { failed: 4, retried: 1, completed: 4 })
  t.same(new Set(seen), new Set([['other name', { n: 1 }, 1], [1, 'b'], [3, false], 'backoff']))
  t.equal(seen.length, 4)
  t.match((await first.until(({ totals }) => totals.failed === 0)).failures, { groups: [] })
  t.same(await failed(), [])
})

test('so many failures are kept, and no more; what cannot be added again says so and stays', async t => {
  const end = signal()
  const { app, act, failed } = await serve(t, { maxPending: 3 }, { failures: 2 })
  t.teardown(() => end.resolve())
  for (const name of ['one', 'two', 'three']) app.backgroundTasks.add({ name }, () => { throw new Error(name) })
  await settled(app, { failed: 3 })
  const added = (await failed()).reverse()
  t.same(added.map(({ name }) => name), ['two', 'three'])
  for (let i = 0; i < 3; i++) app.backgroundTasks.add(async () => { await end.promise })
  t.match(await act(added[0]!.id, 'run-again'), { status: 503, body: { code: 'FST_BGT_OVERLOADED' } })
  end.resolve()
  await settled(app, { failed: 3, completed: 3 })
  t.match(await act(added[0]!.id, 'run-again'), { status: 200, body: { done: true } })
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
  const { totals, retrying } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(totals, { waiting: 1, later: 1 })
  t.match(retrying, { count: 1, next: { name: 'fails' } })
  const tasks = await tasksAt(`${url}/tasks`)
  t.match(tasks.find(({ name }) => name === 'next'), { state: 'waiting', why: "It waits for the next attempt of 'fails', of the same request." })
  t.match(tasks.find(({ name }) => name === 'fails'), { state: 'retrying', why: 'Error: not yet', attempt: 1, attempts: 2 })
})

test('a task that waits for the only place', async t => {
  const end = signal()
  const { app, tasks } = await serve(t, { concurrency: 1 })
  t.teardown(() => end.resolve())
  app.backgroundTasks.add(async () => { await end.promise })
  app.backgroundTasks.add(function queued () {})
  await settled(app, { running: 1, pending: 1 })
  t.match((await tasks()).find(({ name }) => name === 'queued'), { state: 'waiting', why: 'The only place is taken.' })
})

test('each page is told of a second once, whenever it was opened', async t => {
  const { app, stream } = await serve(t)
  const adding = setInterval(() => app.backgroundTasks.add(() => {}), 20)
  t.teardown(() => clearInterval(adding))
  const viewers = []
  for (let i = 0; i < 10; i++) {
    viewers.push(await stream())
    await sleep(150)
  }
  for (const viewer of viewers) {
    const seconds = [...(await viewer.first).seconds, ...(await viewer.next()).seconds].map(({ at }) => at)
    t.equal(new Set(seconds).size, seconds.length)
  }
})

test('seconds: what was completed, failed and how long it waited', async t => {
  const { app, stream } = await serve(t, { concurrency: 1 })
  app.backgroundTasks.add(async () => { await sleep(100) })
  app.backgroundTasks.add(() => {})
  app.backgroundTasks.add({ delay: 30 }, () => {})
  app.backgroundTasks.add(() => { throw new Error('x') })
  await settled(app, { completed: 3, failed: 1 })
  const told = await stream()
  const sum = (list: SecondView[], name: 'completed' | 'failed') => list.reduce((total, second) => total + second[name], 0)
  const all = [...(await told.first).seconds]
  while (sum(all, 'completed') < 3 || sum(all, 'failed') < 1) all.push(...(await told.next()).seconds)
  t.equal(sum(all, 'completed'), 3)
  t.ok(all.some(({ mean }) => mean !== null && mean > 0))
  t.ok(all.some(({ longest }) => longest >= 90))
  t.equal(new Set(all.map(({ at }) => at)).size, all.length, 'each second once')
})

test('a viewer that does not read is dropped, and the others are not', async t => {
  const { app, port, stream } = await serve(t, {}, { payload: true })
  // The kernel buffers much for a client that does not read, and not the same everywhere.
  app.server.once('connection', socket => { socket.cork() })
  const slow = await rawClient(t, port)
  const left = once(slow.socket, 'close')
  slow.send('GET', '/tasks/events', OWN_PAGE)
  const quick = await stream()
  await quick.first
  const word = (i: number) => String.fromCharCode(65 + i % 26, 65 + i / 26)
  for (let i = 0; i < 100; i++) app.backgroundTasks.add({ name: word(i).repeat(50), delay: 600_000 }, () => {})
  for (let i = 0; i < 100; i++) app.backgroundTasks.add({ name: word(i).repeat(50) }, () => { throw new Error(word(i).repeat(500)) })
  let bytes = 0
  const state = { gone: false }
  left.then(() => { state.gone = true })
  while (!state.gone) bytes += JSON.stringify(await quick.next()).length
  t.ok(bytes > 200_000 && bytes < 4_000_000, `${bytes} bytes`)
  t.ok(await quick.next())
})

test('a hundred viewers, and no more', async t => {
  const { url, stream } = await serve(t)
  const viewers = []
  for (let i = 0; i < 100; i++) viewers.push(await stream())
  await viewers.at(-1)!.first
  const refused = await fetch(`${url}/events`, { headers: OWN_PAGE })
  t.equal(refused.status, 503)
  t.match(await refused.json(), { code: 'FST_BGT_TOO_MANY_VIEWERS' })
  viewers[0]!.close()
  await until('there is room', async () => {
    const response = await fetch(`${url}/events`, { headers: OWN_PAGE })
    await response.body!.cancel()
    return response.status === 200
  })
})

test('the close of the application ends the streams; one that breaks harms nothing', async t => {
  const { app, port, stream } = await serve(t)
  const client = await rawClient(t, port)
  client.send('GET', '/tasks/events', OWN_PAGE)
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
  client.send('GET', '/tasks/events', OWN_PAGE)
  await asked.promise
  const left = once(client.socket, 'close')
  const closed = app.close()
  await turns()
  admitted.resolve()
  await Promise.all([closed, left])
})

test('over HTTP/2 too; those that leave before they are admitted take no place', async t => {
  let wait: Promise<void> | null = null
  // A busy machine must not end the session for a pause.
  const app = Fastify({ http2: true, http2SessionTimeout: 60_000 }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  await app.register(dashboard, { prefix: '/tasks', preHandler: async () => { await wait } })
  const { url } = await listen(app)
  const session = await http2Client(t, url)
  const admitted = signal()
  wait = admitted.promise
  const early = Array.from({ length: 100 }, () => session.request({ ':path': '/tasks/events', ...OWN_PAGE }))
  await turns()
  for (const stream of early) stream.close(constants.NGHTTP2_CANCEL)
  await Promise.all(early.map(stream => once(stream, 'close')))
  admitted.resolve()
  wait = null
  // A session has room for a hundred streams, and the server may still count those.
  const other = await http2Client(t, url)
  const stream = other.request({ ':path': '/tasks/events', ...OWN_PAGE })
  const [{ ':status': status }] = await once(stream, 'response')
  t.equal(status, 200)
  stream.setEncoding('utf8')
  let text = ''
  stream.on('data', (part: string) => { text += part })
  await until('the first event', () => text.includes('"full":false'))
  t.match(text, /^data: /)
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
  const { longest, oldest, stuck } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(longest, [{ name: 'before', since: null, silentSince: null }])
  t.equal(longest.length, 1)
  t.match({ oldest, stuck }, { oldest: null, stuck: { count: 0, first: null } })
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
  t.match(await tasksAt(url), [{ name: 'soon', state: 'waiting', why: 'It is about to run.' }])
})
