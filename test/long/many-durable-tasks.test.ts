import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../../index'
import { settled, signal } from '../support/server'
import { StubBackend } from '../support/stub-backend'
import { until } from '../support/until'

/* Numbers of tasks that go to a backend at which nothing may break, and nothing take longer than their number explains. */

const task = defineTask('task', async () => {})

async function start (t: Test, options: BackgroundTasksOptions): Promise<FastifyInstance> {
  const app = Fastify({ logger: { level: 'silent' } }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks, { tasks: [task], worker: false, maxPending: Infinity, closeTimeout: 0, ...options })
  return app
}

test('a request may store any number of tasks, and try again, and keep any number for its outcome', async t => {
  const MANY = 200_000
  const backend = new StubBackend()
  const app = await start(t, { backend })
  app.get('/', async request => {
    for (let i = 0; i < MANY; i++) request.backgroundTasks.add({ runOn: 'failure' }, task)
    for (let i = 0; i < MANY; i++) request.backgroundTasks.add(task)
    backend.onStore = async () => { throw new Error('away') }
    await t.rejects(request.backgroundTasks.flush(), { code: 'FST_BGT_STORE_FAILED' })
    backend.onStore = async tasks => tasks.map(({ id }) => id)
    await request.backgroundTasks.flush()
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  await settled(app, { stored: MANY, dropped: MANY })
})

test('the time until waiting tasks are refused grows with their number', async t => {
  const msUntilRefused = async (count: number) => {
    const backend = new StubBackend()
    backend.onStore = () => new Promise(() => {})
    const app = await start(t, { backend, storeTimeout: 300 })
    await app.ready()
    for (let i = 0; i < count; i++) app.backgroundTasks.add(task)
    const begin = performance.now()
    await until('all are refused', () => app.backgroundTasks.stats().failed === count)
    return performance.now() - begin - 300
  }
  await msUntilRefused(1_000)
  // A busy machine may hold up one of the two: what grows with the square is too slow each time.
  const ratios: number[] = []
  while (ratios.length < 3 && !ratios.some(ratio => ratio < 15)) {
    const few = await msUntilRefused(8_000)
    ratios.push(await msUntilRefused(40_000) / Math.max(few, 100))
  }
  t.ok(ratios.some(ratio => ratio < 15), `five times as many take ${ratios.map(ratio => ratio.toFixed(1)).join(', ')} times as long`)
})

/** Counts how many tasks a backend is asked to cancel at the same time. */
function countCancels (backend: StubBackend): { most: number } {
  const counts = { most: 0 }
  let asked = 0
  backend.onCancel = async () => {
    counts.most = Math.max(counts.most, ++asked)
    await new Promise(resolve => { setImmediate(resolve) })
    asked--
    return true
  }
  return counts
}

test('many tasks that are written too late are cancelled a few at a time', async t => {
  const MANY = 5_000
  const backend = new StubBackend()
  const go = signal()
  backend.onStore = async tasks => {
    await go.promise
    return tasks.map(({ id }) => id)
  }
  const counts = countCancels(backend)
  const app = await start(t, { backend, storeTimeout: 50 })
  app.get('/', async request => {
    for (let i = 0; i < MANY; i++) request.backgroundTasks.add(task)
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 503)
  go.resolve()
  await until('all are cancelled', () => backend.cancelled.length === MANY)
  t.ok(counts.most <= 100, `${counts.most} at the same time`)
})

test('many tasks whose reply fails after all are cancelled a few at a time, and no more once the server fails', async t => {
  const MANY = 5_000
  const backend = new StubBackend()
  const counts = countCancels(backend)
  const app = await start(t, { backend })
  app.get('/', async request => {
    for (let i = 0; i < MANY; i++) request.backgroundTasks.add(task)
    return new Readable({ read () { this.destroy(new Error('before its first byte')) } })
  })
  t.equal((await app.inject('/')).statusCode, 500)
  t.equal(backend.cancelled.length, MANY)
  t.ok(counts.most <= 100, `${counts.most} at the same time`)
  backend.onCancel = async () => { throw new Error('away') }
  t.equal((await app.inject('/')).statusCode, 500)
  t.equal(backend.cancelled.length, MANY + 100)
})
