import type { FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { dashboard, type DashboardOptions } from '../lib/dashboard'
import { rawClient, type RawClient } from './support/client'
import { until } from './support/until'
import { openStream, OWN_PAGE } from './support/dashboard'
import { createApp, listen, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'

/* The dashboard has places for a hundred viewers: nobody takes another's, and nobody keeps one that he does not use. */

const PLACES = 100

async function serve (t: Test, options: DashboardOptions = {}, routes = (_app: FastifyInstance): void => {}) {
  const { app } = await createApp(t, { closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks', ...options })
  routes(app)
  return { app, ...await listen(app) }
}

/** Opens streams until one is refused, and returns how many there was room for. */
async function room (t: Test, port: number): Promise<number> {
  for (let count = 0; ; count++) {
    const client = await rawClient(t, port)
    client.send('GET', '/tasks/events', OWN_PAGE)
    await client.until('\r\n')
    if (!client.received.startsWith('HTTP/1.1 200')) return count
  }
}

async function answers (clients: RawClient[]): Promise<number[]> {
  await Promise.all(clients.map(client => client.until('\r\n\r\n')))
  return clients.map(({ received }) => Number(received.slice(9, 12)))
}

test('a hundred and one pipelined requests of one connection take one place, and none when it is closed', async t => {
  const { app, port } = await serve(t)
  let requests = 0
  app.server.on('request', () => { requests++ })
  const client = await rawClient(t, port)
  for (let i = 0; i <= PLACES; i++) client.send('GET', '/tasks/events', OWN_PAGE)
  await client.until('data: ')
  await until('all requests', () => requests === PLACES + 1)
  const other = await rawClient(t, port)
  other.send('GET', '/tasks/events', OWN_PAGE)
  t.same(await answers([other]), [200])
  client.leave()
  other.leave()
  await until('the server has seen both leave', async () => await connections(app) === 0)
  t.equal(await room(t, port), PLACES)
})

test('a stream whose turn on its connection never comes has its place until the connection is closed', async t => {
  const { app, port } = await serve(t, {}, app => { app.get('/never', (_request, _reply) => {}) })
  let requests = 0
  app.server.on('request', () => { requests++ })
  const clients = await Promise.all(Array.from({ length: PLACES }, () => rawClient(t, port)))
  for (const client of clients) {
    client.send('GET', '/never')
    client.send('GET', '/tasks/events', OWN_PAGE)
  }
  await until('all requests', () => requests === 2 * PLACES)
  await turns()
  t.equal(await room(t, port), 0)
  for (const client of clients) client.leave()
  await until('the server has seen all leave', async () => await connections(app) <= 1)
  t.equal(await room(t, port), PLACES)
})

test('three hundred who are let in at one moment: a hundred get a place', async t => {
  const gate = signal()
  let waiting = 0
  const { port } = await serve(t, {
    preHandler: async () => {
      waiting++
      await gate.promise
    }
  })
  const clients = await Promise.all(Array.from({ length: 3 * PLACES }, () => rawClient(t, port)))
  for (const client of clients) client.send('GET', '/tasks/events', OWN_PAGE)
  await until('all wait', () => waiting === 3 * PLACES)
  gate.resolve()
  const statuses = await answers(clients)
  t.equal(statuses.filter(status => status === 200).length, PLACES)
  t.equal(statuses.filter(status => status === 503).length, 2 * PLACES)
})

test('a page that opens after the last one was closed is told nothing of the time before', async t => {
  const backend = new StubBackend()
  const counts = { running: 0, waiting: 3, delayed: 0, failed: 0, completed: 0 }
  backend.list = async () => ({ counts, tasks: [] })
  const { app } = await createApp(t, { backend, tasks: [defineTask('task', async () => {})] })
  await app.register(dashboard, { prefix: '/tasks' })
  const { url, port } = await listen(app)
  const first = await rawClient(t, port)
  first.send('GET', '/tasks/events', OWN_PAGE)
  await first.until('"waiting":3')
  // From now on no answer: what a page is told, it is told of the time before.
  backend.list = () => new Promise(() => {})
  first.leave()
  await until('the server has seen it leave', async () => await connections(app) === 0)
  const { totals } = await (await openStream(t, `${url}/tasks/events`)).first
  t.equal(totals.waiting, 0)
})

test('streams that other pages ask for get no place', async t => {
  const { url, port } = await serve(t)
  const { host } = new URL(url)
  for (const headers of [{ origin: 'https://example.com' }, { origin: 'null' }, { 'sec-fetch-site': 'cross-site' }, { 'sec-fetch-site': 'same-site' }] as Array<Record<string, string>>) {
    const response = await fetch(`${url}/tasks/events`, { headers: { ...OWN_PAGE, ...headers } })
    t.equal(response.status, 403, JSON.stringify(headers))
    t.match(await response.json(), { code: 'FST_BGT_FOREIGN_PAGE', message: Object.values(headers)[0] })
  }
  // A browser's request for an image, over plain HTTP to another machine, does not say which page asks.
  t.equal((await fetch(`${url}/tasks/events`)).status, 403)
  for (const headers of [{ origin: `http://${host}` }, { 'sec-fetch-site': 'same-origin' }] as Array<Record<string, string>>) {
    const viewer = await openStream(t, `${url}/tasks/events`, headers)
    await viewer.first
  }
  t.equal(await room(t, port), PLACES - 2)
})

function connections (app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => { app.server.getConnections((error, count) => error === null ? resolve(count) : reject(error)) })
}
