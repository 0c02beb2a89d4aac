import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Cluster, Redis } from 'ioredis'
import { Client, Pool } from 'pg'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq, type BullmqOptions } from '../../lib/backends/bullmq'
import { createApp } from '../support/server'
import { freePort, noOwnPgbouncer, noOwnPostgres, noOwnRedis, ownPgbouncer, ownPostgres, ownRedis, socketFolderOf } from '../support/services'
import { until } from '../support/until'

// Ways to reach Redis and Postgres other than a plain connection to one server.

const task = defineTask('task', async (n: number) => n)

function start (t: Test, options: BullmqOptions) {
  return createApp(t, { tasks: [task], backend: bullmq({ queue: `neighbours-${randomUUID()}`, ...options }) })
}

/** Tasks of each kind are stored, by either writer, run, and found. */
async function works (t: Test, options: BullmqOptions, what: string): Promise<void> {
  for (const writer of ['direct', 'plain'] as const) await worksWith(t, { ...options, writer }, `${what}, ${writer}`)
}

async function worksWith (t: Test, options: BullmqOptions, what: string): Promise<void> {
  const { app } = await start(t, options)
  app.get('/', async request => {
    const handles = [request.backgroundTasks.add(task, 1), request.backgroundTasks.add({ delay: 20 }, task, 2), request.backgroundTasks.add({ dedupe: 'x' }, task, 3)]
    return handles.map(({ id }) => id)
  })
  const responses = await Promise.all([1, 2].map(() => app.inject('/')))
  t.same(responses.map(({ statusCode }) => statusCode), [200, 200], what)
  const ids = responses.flatMap(response => response.json<string[]>()).filter((_id, index) => index !== 5)
  for (const id of ids) await until(`the result of ${id}`, async () => (await app.backgroundTasks.find(id))?.state !== 'pending' && (await app.backgroundTasks.find(id))?.state !== 'running')
  t.same((await Promise.all(ids.map(id => app.backgroundTasks.find(id)))).map(info => info?.result).sort(), [1, 1, 2, 2, 3])
  const waiting = app.backgroundTasks.add({ delay: 60_000 }, task, 4)
  await app.backgroundTasks.flush()
  t.equal(await waiting.cancel(), true)
  await app.close()
}

test('Redis with TLS and a password', { skip: noOwnRedis }, async t => {
  const folder = t.testdir({})
  const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', certificate, '-days', '1', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'], { stdio: 'pipe' })
  const port = await freePort()
  const server = await ownRedis(t, ['--tls-port', String(port), '--tls-cert-file', certificate, '--tls-key-file', key, '--tls-ca-cert-file', certificate, '--tls-auth-clients', 'no'])
  const client = new Redis(server.url)
  await client.config('SET', 'requirepass', 'a password')
  client.disconnect()
  const tls = { ca: readFileSync(certificate) }
  await works(t, { connection: { host: '127.0.0.1', port, password: 'a password', tls } }, 'options')
  const ready = new Redis(`rediss://:a%20password@127.0.0.1:${port}`, { tls })
  t.teardown(() => ready.disconnect())
  await works(t, { connection: ready }, 'a ready client')
  const { app } = await start(t, { connection: `rediss://:a%20password@127.0.0.1:${port}` })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /self.signed certificate|no answer/ }, 'a certificate that nobody vouches for')
})

test('a cluster of Redis with three nodes', { skip: noOwnRedis }, async t => {
  const nodes = []
  for (let n = 0; n < 3; n++) {
    const busPort = await freePort()
    const { port } = await ownRedis(t, ['--cluster-enabled', 'yes', '--cluster-announce-ip', '127.0.0.1', '--cluster-port', String(busPort)])
    const client = new Redis(port)
    t.teardown(() => client.disconnect())
    nodes.push({ port, busPort, client })
  }
  const slots = 16_384 / 3
  for (const [n, { port, busPort, client }] of nodes.entries()) {
    const [first, end] = [Math.ceil(n * slots), Math.ceil((n + 1) * slots)]
    await client.cluster('ADDSLOTS', ...Array.from({ length: end - first }, (_, slot) => first + slot))
    if (n !== 0) await nodes[0]!.client.call('CLUSTER', 'MEET', '127.0.0.1', port, busPort)
  }
  for (const { client } of nodes) await until('the cluster', async () => /cluster_state:ok[^]*cluster_known_nodes:3/.test(await client.cluster('INFO')))
  const cluster = new Cluster([{ host: '127.0.0.1', port: nodes[0]!.port }])
  t.teardown(() => cluster.disconnect())
  // On different nodes.
  for (const prefix of ['{a}', '{b}', '{c}', '{d}']) await works(t, { connection: cluster, prefix }, prefix)
  const used = (await Promise.all(nodes.map(({ client }) => client.dbsize()))).filter(size => size !== 0)
  t.ok(used.length > 1, `${used.length} of three nodes are used`)
  for (const prefix of ['bull', '{a}', '{b}', '{c}', '{d}']) {
    const refusals = []
    for (const { port } of nodes) {
      const { app } = await start(t, { connection: `redis://127.0.0.1:${port}`, prefix })
      refusals.push(await app.ready().then(() => null, (error: Error) => error.message))
      await app.close()
    }
    // One node has the queue's keys, if they have one place.
    t.ok(refusals.filter(message => message !== null).length >= 2)
    t.ok(refusals.every(message => message === null || message.includes('must be a ready Cluster, and `prefix` have a part in braces')), `${refusals}`)
  }
})

test('Postgres through a Unix socket', { skip: noOwnPostgres }, async t => {
  const server = await ownPostgres(t)
  const host = socketFolderOf(server)
  await works(t, { connection: { host, port: server.port, user: 'postgres', database: 'postgres' } }, 'options')
  await works(t, { connection: `postgres://postgres@/postgres?host=${encodeURIComponent(host)}&port=${server.port}` }, 'a URL')
})

test('Postgres behind a pgbouncer in transaction mode', { skip: noOwnPgbouncer }, async t => {
  const server = await ownPostgres(t)
  const strict = await ownPgbouncer(t, server)
  const { app: refused } = await start(t, { connection: strict.url })
  await t.rejects(async () => { await refused.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /startup parameter/ }, 'it takes no search path')
  const lenient = await ownPgbouncer(t, server, ['ignore_startup_parameters = options,extra_float_digits'])
  const { app: lost } = await start(t, { connection: lenient.url })
  await t.rejects(async () => { await lost.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /search path has no schema 'bullmq'.*ALTER ROLE/ }, 'it takes it away')
  const client = new Client({ connectionString: server.url })
  await client.connect()
  await client.query('ALTER ROLE postgres SET search_path = bullmq')
  // Its connections to the server have the old one.
  await client.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = \'client backend\'')
  await client.end()
  await works(t, { connection: lenient.url }, 'a URL, where the role has the search path')
  const pool = new Pool({ connectionString: strict.url })
  pool.on('error', () => {})
  t.teardown(() => pool.end())
  await works(t, { connection: pool }, 'a ready pool')
})
