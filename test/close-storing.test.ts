import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, signal } from './support/server'
import { StubBackend } from './support/stub-backend'
import { ends } from './support/until'

// A close while a task is on its way to a backend that does not answer.

const task = defineTask('task', async (_payload: unknown) => {})
const never = () => new Promise<never>(() => {})

test('a task of the application that is still being stored has failed and is reported, before the last line of the log', async t => {
  const backend = new StubBackend()
  const written = signal()
  const errors: string[] = []
  backend.onStore = () => { written.resolve(); return never() }
  const { app, log } = await createApp(t, { tasks: [task], backend, worker: false, closeTimeout: 50, storeTimeout: 60_000, onError: (_error, task) => { errors.push(task.name) } })
  await app.ready()
  const handle = app.backgroundTasks.add(task, 1)
  await written.promise
  const flushed = t.rejects(app.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED', message: /the application has closed/ })
  await app.close()
  await flushed
  t.equal(handle.state, 'failed')
  t.same(errors, ['task'])
  t.match(log.filter(({ level }) => level === 50), [{ msg: 'background task failed', err: { code: 'FST_BGT_STORE_FAILED' }, task: { id: handle.id } }])
  t.match(log.at(-1), { msg: 'background tasks drained', backgroundTasks: { failed: 1, pending: 0 } })
})

// `inject` is not waited for by the close, unlike a request over a socket.
for (const way of ['add', 'release', 'flush', 'release after the close']) {
  test(`a request whose task the close has dropped is answered with a 503: ${way}`, async t => {
    const backend = new StubBackend()
    const added = signal()
    const closed = signal()
    backend.onStore = never
    const { app } = await createApp(t, { tasks: [task], backend, worker: false, closeTimeout: 20, storeTimeout: 60_000 })
    app.get('/', async ({ backgroundTasks }) => {
      backgroundTasks.add(task, 1)
      if (way === 'release') backgroundTasks.release()
      const flushed = way === 'flush' && backgroundTasks.flush().catch(() => {})
      added.resolve()
      await flushed
      if (way !== 'release') await closed.promise
      if (way === 'release after the close') backgroundTasks.release()
      return 'done'
    })
    const reply = app.inject('/')
    await added.promise
    await app.close()
    closed.resolve()
    const { statusCode, body } = await reply
    t.equal(statusCode, 503)
    t.match(body, /FST_BGT_STORE_FAILED.*the application has closed/)
    t.match(app.backgroundTasks.stats(), { dropped: 1, pending: 0, collecting: 0 })
  })
}

test('a task in a transaction whose client does not answer is dropped, and reported', async t => {
  const backend = Object.assign(new StubBackend(), { storeInTransaction: never })
  const { app, log } = await createApp(t, { tasks: [task], backend, worker: false, closeTimeout: 50 })
  await app.ready()
  app.backgroundTasks.addInTransaction({ query: never }, task, 1)
  t.equal(app.backgroundTasks.stats().pending, 1)
  await app.close()
  t.match(app.backgroundTasks.stats(), { pending: 0, dropped: 1 })
  t.match(log.filter(({ level }) => level === 50), [{ msg: 'background task did not end before the application closed', task: { name: 'task', state: 'pending' } }])
})

test('the process ends after the close', async t => {
  const code = `
    const { default: plugin, defineTask } = require(${JSON.stringify(join(__dirname, '../index'))})
    const { StubBackend } = require(${JSON.stringify(join(__dirname, 'support/stub-backend'))})
    const app = require('fastify')()
    const task = defineTask('task', async () => {})
    const backend = new StubBackend()
    backend.onStore = () => { setImmediate(() => app.close().then(() => console.log('closed'))); return new Promise(() => {}) }
    app.register(plugin, { tasks: [task], backend, worker: false, closeTimeout: 20, storeTimeout: 2_000_000 })
    app.ready().then(() => app.backgroundTasks.add(task))`
  const child = spawn(process.execPath, [...process.execArgv, '-e', code], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill())
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', data => { output += data })
  t.same(await ends('the process', once(child, 'exit')), [0, null], output)
  t.match(output, /closed/)
})
