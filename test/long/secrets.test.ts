import { randomBytes, randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import Redis from 'ioredis'
import { Client, Pool } from 'pg'
import { inspect } from 'node:util'
import { test, type Test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../../index'
import { bullmq, type BullmqOptions } from '../../lib/backends/bullmq'
import { Secrets } from '../../lib/backends/secrets'
import { createApp } from '../support/server'
import { freePort, noOwnPostgres, noOwnRedis, ownPostgres, ownRedis, withPassword } from '../support/services'
import { until } from '../support/until'

// A password is in nothing that is written: no log line, no error with all it has, nothing on the console.

const task = defineTask('task', async () => {})

/** Everything that is written while a test runs, by whomever. */
function written (t: Test): string[] {
  const texts: string[] = []
  for (const stream of [process.stdout, process.stderr]) {
    const { write } = stream
    stream.write = function (this: typeof stream, ...args: [any]) {
      texts.push(String(args[0]))
      return write.apply(this, args)
    } as typeof write
    t.teardown(() => { stream.write = write })
  }
  return texts
}

const everything = (error: unknown) => [
  inspect(error, { depth: Infinity, showHidden: true, getters: true }), String(error), (error as Error).stack, JSON.stringify(error)
].join('\n')

/** The application with the backend; what its start, a request, and calls of it end with, goes to the texts. */
async function tryOut (t: Test, texts: string[], options: BullmqOptions) {
  const { app, log } = await createApp(t, {
    tasks: [task], backend: bullmq({ queue: `secrets-${randomUUID()}`, ...options }), storeTimeout: 1_000, closeTimeout: 100
  }, { logger: { level: 'trace', stream: { write: (line: string) => { texts.push(line) } } } })
  app.get('/', async request => request.backgroundTasks.add(task).id)
  const note = (error: unknown) => { texts.push(everything(error)) }
  return { app, log, note }
}

const clean = (t: Test, texts: string[], password: string, what: string) => {
  const found = texts.find(text => text.includes(password) || text.includes(encodeURIComponent(password)))
  t.ok(texts.length !== 0 && found === undefined, found === undefined ? what : `${what}: it is in what is written`)
}

test('what is no connection, or no backend, is not shown', async t => {
  const password = randomBytes(12).toString('hex')
  for (const connection of [
    `postgress://user:${password}@localhost/db`, ` postgres://user:${password}@localhost/db`, `redis:/:${password}@localhost`,
    `mysql://user:${password}@${'long'.repeat(50)}`, password, () => password
  ]) {
    t.throws(() => bullmq({ connection: connection as string }), { code: 'FST_BGT_INVALID_OPTION' })
    try {
      bullmq({ connection: connection as string })
    } catch (error) {
      clean(t, [everything(error)], password, everything(error).slice(0, 200))
    }
  }
  t.throws(() => bullmq({ connection: ' postgres://a:b@c' }), { message: /received a string that begins with ' postgres:\/\/'/ })
  for (const backend of [`redis://:${password}@localhost`, { connection: { password } }, `redis://${password.repeat(5)}`]) {
    const app = Fastify()
    const error = await app.register(backgroundTasks, { backend } as unknown as BackgroundTasksOptions).then(() => null, (error: unknown) => error)
    t.match(error, { code: 'FST_BGT_INVALID_OPTION' })
    clean(t, [everything(error)], password, 'as a backend')
  }
})

test('a URL that is shown elsewhere is shown without its credentials', async t => {
  const { app } = await createApp(t)
  const password = randomBytes(12).toString('hex')
  for (const value of [`redis://:${password}@h`, { url: `redis://user:${password.repeat(4)}@host` }, [`amqp://user:${password}@${'h'.repeat(100)}`]]) {
    try {
      app.backgroundTasks.add({ timeout: value as never }, () => {})
    } catch (error) {
      t.match(error, { code: 'FST_BGT_INVALID_TASK_OPTION', message: /:\/\/…@/ })
      clean(t, [everything(error)], password, 'in an option of a task')
    }
  }
})

test('addresses that lead nowhere, or that no driver takes', async t => {
  const texts = written(t)
  const password = `${randomBytes(8).toString('hex')}/?#:@`
  const encoded = encodeURIComponent(password)
  const port = await freePort()
  for (const connection of [
    `redis://:${encoded}@127.0.0.1:${port}`, `redis://user:${password}@127.0.0.1:${port}`, `redis://:${encoded}@127.0.0.1:99999`,
    `postgres://user:${encoded}@127.0.0.1:${port}/db`, `postgres://user:${password}@127.0.0.1:${port}/db`, `postgres://user:${encoded}@127.0.0.1:port/db`,
    `postgres://127.0.0.1:${port}/db?user=x&password=${encoded}`, { host: '127.0.0.1', port, password }, { connectionString: `postgres://x:${encoded}@127.0.0.1:${port}/x` },
    { host: 'no.such.host.invalid', database: 'x', password }
  ]) {
    const { app, note } = await tryOut(t, texts, { connection })
    const error = await app.ready().then(() => null, (error: unknown) => error)
    t.ok(error instanceof Error)
    note(error)
    await app.close()
  }
  clean(t, texts, password, 'nowhere')
  clean(t, texts, password.slice(0, 16), 'nor a part of it')
})

test('Redis: a password that is wrong from the start, or becomes wrong', { skip: noOwnRedis }, async t => {
  const texts = written(t)
  const [right, wrong] = [1, 2].map(() => randomBytes(12).toString('hex')) as [string, string]
  const server = await ownRedis(t)
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  await client.config('SET', 'requirepass', right)
  const url = (password: string) => `redis://:${password}@127.0.0.1:${server.port}`
  for (const connection of [url(wrong), { host: '127.0.0.1', port: server.port, username: 'nobody', password: wrong }, { host: '127.0.0.1', port: server.port, password: wrong, protocol: 2 }]) {
    const { app, note } = await tryOut(t, texts, { connection })
    const error = await app.ready().then(() => null, (error: unknown) => error)
    t.match(error, { code: 'FST_BGT_BACKEND_FAILED' })
    note(error)
    await app.close()
  }
  const { app, note } = await tryOut(t, texts, { connection: url(right) })
  t.equal((await app.inject('/')).statusCode, 200)
  await client.config('SET', 'requirepass', wrong)
  await client.call('CLIENT', 'KILL', 'TYPE', 'normal')
  await until('it is logged', () => texts.some(text => text.includes('WRONGPASS') && text.includes('is in trouble')))
  const response = await app.inject('/')
  t.equal(response.statusCode, 503)
  texts.push(response.body)
  for (const call of [() => app.backgroundTasks.find(randomUUID()), () => app.backgroundTasks.flush()]) await call().catch(note)
  await app.close()
  clean(t, texts, right, 'the one that was right')
  clean(t, texts, wrong, 'the one that was wrong')
})

test('Postgres: a password that is wrong from the start, or becomes wrong', { skip: noOwnPostgres }, async t => {
  const texts = written(t)
  const [right, wrong] = [1, 2].map(() => randomBytes(12).toString('hex')) as [string, string]
  const server = await ownPostgres(t)
  const url = await withPassword(server, right)
  for (const connection of [url.replace(right, wrong), { host: '127.0.0.1', port: server.port, user: 'postgres', database: 'postgres', password: wrong }]) {
    const { app, note } = await tryOut(t, texts, { connection })
    const error = await app.ready().then(() => null, (error: unknown) => error)
    t.match(error, { code: 'FST_BGT_BACKEND_FAILED', message: /password authentication failed/ })
    note(error)
    await app.close()
  }
  const pool = new Pool({ connectionString: url, options: '-c search_path=bullmq' })
  pool.on('error', () => {})
  t.teardown(() => pool.end())
  const applications = [await tryOut(t, texts, { connection: url }), await tryOut(t, texts, { connection: pool })]
  for (const { app } of applications) t.equal((await app.inject('/')).statusCode, 200)
  const client = new Client({ connectionString: url })
  await client.connect()
  await client.query(`ALTER USER postgres PASSWORD '${wrong}'`)
  await client.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = \'client backend\'')
  await client.end()
  for (const { app, note } of applications) {
    await until('it is refused', async () => (await app.inject('/')).statusCode === 503)
    await app.backgroundTasks.find(randomUUID()).catch(note)
    await app.close()
  }
  t.ok(texts.some(text => text.includes('is in trouble')), 'it is logged')
  clean(t, texts, right, 'the one that was right')
  clean(t, texts, wrong, 'the one that was wrong')
  t.notOk(texts.some(text => text.includes('"secretKey"')), 'nor what lets others cancel its statements')
})

test('errors of drivers keep what they tell, and lose what is secret', async t => {
  const secrets = new Secrets({ connectionString: 'postgres://user:p%40ss%20word@host?sslpassword=another', password: '%nocode', sentinels: [{ password: 'of a sentinel' }], port: 1 })
  const error = Object.assign(new AggregateError([new Error('p@ss word')], 'p%40ss%20word and another at redis://x:y@host', { cause: new Error('%nocode') }), {
    code: 'E', command: { name: 'auth', args: ['x'] }, client: { host: 'x' }, lastNodeError: Object.assign(new Error('of a sentinel'), { command: 'x' }), n: 1
  })
  secrets.redact(error)
  t.equal(error.message, '[redacted] and [redacted] at redis://[redacted]@host')
  t.match(error, { code: 'E', command: { name: 'auth', args: undefined }, client: undefined, cause: { message: '[redacted]' }, lastNodeError: { message: '[redacted]', command: 'x' }, n: 1 })
  t.equal(error.errors[0].message, '[redacted]')
  t.notMatch(error.stack, 'another')
  const frozen = Object.freeze(new Error('another'))
  for (const other of [null, 'text', frozen]) t.doesNotThrow(() => secrets.redact(other))
  const nothing = new Secrets(null)
  const plain = new Error('plain')
  nothing.redact(plain)
  t.equal(plain.message, 'plain')
})
