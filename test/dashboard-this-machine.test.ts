import Fastify, { type FastifyInstance } from 'fastify'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import backgroundTasks from '../index'
import { dashboard, type DashboardOptions } from '../lib/dashboard'
import { answer, http2Client, rawClient } from './support/client'
import { createApp, listen } from './support/server'

/* A dashboard that nobody has given a preHandler answers this machine alone. */

const ROUTES = [['GET', '/tasks'], ['GET', '/tasks/'], ['GET', '/tasks/page.css'], ['GET', '/tasks/page.js'], ['GET', '/tasks/icon.svg'], ['GET', '/tasks/events'], ['GET', '/tasks/lists/failed'], ['GET', '/tasks/tasks/x'], ...['/tasks/x/cancel', '/tasks/x/run-again', '/tasks/x/dismiss', '/groups/x/run-again', '/groups/x/dismiss', '/worker/pause', '/worker/resume'].map(path => ['POST', `/tasks${path}`] as const)] as const

async function serve (t: Test, options: DashboardOptions = {}, fastifyOptions = {}) {
  const { app, log } = await createApp(t, { closeTimeout: 100 }, fastifyOptions)
  await app.register(dashboard, { prefix: '/tasks', ...options })
  return { app, log }
}

/** The status that a request with this host is answered with, over a connection of this machine. */
async function statusFor (t: Test, port: number, host: string, headers: Record<string, string> = {}, path = '/tasks/'): Promise<number> {
  const client = await rawClient(t, port)
  client.send('GET', path, { host, ...headers })
  await client.until('\r\n')
  return Number(client.received.slice(9, 12))
}

test('this machine sees the page, by whatever name it calls itself', async t => {
  const { app, log } = await serve(t)
  const { port } = await listen(app)
  for (const host of ['localhost', `localhost:${port}`, 'LOCALHOST', 'app.localhost', `127.0.0.1:${port}`, '127.1.2.3', `[::1]:${port}`, '[::1]']) {
    t.equal(await statusFor(t, port, host), 200, host)
  }
  t.ok(log.some(({ level, msg }) => level === 30 && msg.includes('dashboard') && msg.includes('preHandler')), 'the log says how to open it')
})

test('a foreign name for this machine, as DNS rebinding gives it, is refused', async t => {
  const { app } = await serve(t)
  const { port } = await listen(app)
  for (const host of ['example.com', `example.com:${port}`, 'localhost.example.com', 'localhost.', '127.0.0.1.example.com', '127.0.0.1:80.example.com', 'xlocalhost', '127.0.0.1@example.com', '0.0.0.0', '192.168.1.1', '']) {
    t.equal(await statusFor(t, port, host), 403, host)
  }
  const old = await rawClient(t, port)
  old.socket.write('GET /tasks/ HTTP/1.0\r\n\r\n')
  await old.until('\r\n')
  t.match(old.received, /^HTTP\/1\.1 403/, 'without a name')
})

test('another machine is refused by every route, and told how to open the page', async t => {
  const { app } = await serve(t, {}, { trustProxy: true })
  for (const remoteAddress of ['192.0.2.1', '::ffff:192.0.2.1', '2001:db8::1', '128.0.0.1']) {
    for (const [method, url] of ROUTES) {
      const response = await app.inject({ method, url, remoteAddress, headers: { 'x-background-tasks-dashboard': '1' } })
      t.equal(response.statusCode, 403, `${method} ${url} from ${remoteAddress}`)
      t.match(response.json(), { code: 'FST_BGT_LOCAL_ONLY', message: /preHandler.*received a request from / })
    }
  }
  t.equal((await app.inject({ url: '/tasks/', remoteAddress: '::ffff:127.0.0.1' })).statusCode, 200)
  t.equal((await app.inject({ url: '/tasks/', remoteAddress: '::1' })).statusCode, 200)
})

test('what a proxy on this machine passes on from another one is refused, whether proxies are trusted or not', async t => {
  for (const trustProxy of [true, false]) {
    const { app } = await serve(t, {}, { trustProxy })
    const { port } = await listen(app)
    for (const name of ['forwarded', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip']) {
      t.equal(await statusFor(t, port, 'localhost', { [name]: '127.0.0.1' }), 403, name)
    }
  }
})

test('over a Unix socket the peer has no address: it is refused', async t => {
  const { app } = await serve(t)
  const path = join(mkdtempSync(join(tmpdir(), 'fbt-')), 'socket')
  await app.listen({ path })
  const asked = request({ socketPath: path, path: '/tasks/', headers: { host: 'localhost' } }).end()
  const [response] = await once(asked, 'response')
  response.resume()
  t.equal(response.statusCode, 403)
})

test('over HTTP/2 the authority is the host', async t => {
  const app = Fastify({ http2: true, http2SessionTimeout: 100 }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  await app.register(dashboard, { prefix: '/tasks' })
  const { url, port } = await listen(app)
  const session = await http2Client(t, url)
  t.equal((await answer(session.request({ ':path': '/tasks/' }))).status, 200)
  t.equal((await answer(session.request({ ':path': '/tasks/', ':authority': `example.com:${port}` }))).status, 403)
})

test('a preHandler opens it', async t => {
  const { app, log } = await serve(t, { preHandler: async () => {} })
  const { port } = await listen(app)
  t.equal(await statusFor(t, port, 'example.com'), 200)
  t.equal((await app.inject({ url: '/tasks/', remoteAddress: '192.0.2.1' })).statusCode, 200)
  t.notOk(log.some(({ msg }) => msg.includes('dashboard')))
})

test('no preHandler in an array of none is none', async t => {
  const { app } = await serve(t, { preHandler: [] })
  t.equal((await app.inject({ url: '/tasks/', remoteAddress: '192.0.2.1' })).statusCode, 403)
})
