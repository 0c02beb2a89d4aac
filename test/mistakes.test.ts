import Fastify from 'fastify'
import { test } from 'tap'
import backgroundTasks, { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { celery } from '../lib/backends/celery'
import { sqlite } from '../lib/backends/sqlite'
import { createApp } from './support/server'
import { StubBackend } from './support/stub-backend'

// Mistakes that look right: each has an error that says what to do.

const task = defineTask('task', async (_payload: unknown) => {})

test('add without its collector', async t => {
  const { app } = await createApp(t, { asyncContext: true })
  app.get('/', async request => {
    for (const { add } of [request.backgroundTasks, app.backgroundTasks, app.backgroundTasks.current]) {
      t.throws(() => add(() => {}), { code: 'FST_BGT_UNBOUND', message: /'tasks\.add\(…\)', not 'const { add } = tasks'/ })
    }
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
})

test('another method without its collector', async t => {
  const { app } = await createApp(t)
  const { idle, stats } = app.backgroundTasks
  for (const method of [idle, stats]) t.throws(() => method(), { code: 'FST_BGT_UNBOUND' })
  const { flush, find, schedules, runSchedule } = app.backgroundTasks
  for (const method of [flush, find, schedules, runSchedule] as Array<(id: string) => Promise<unknown>>) await t.rejects(async () => method('x'), { code: 'FST_BGT_UNBOUND' })
  app.get('/', async request => {
    const { flush, release } = request.backgroundTasks
    await t.rejects(flush(), { code: 'FST_BGT_UNBOUND' })
    t.throws(() => release(), { code: 'FST_BGT_UNBOUND' })
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
})

test('options that do not fit the kind of task', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  t.throws(() => app.backgroundTasks.add({ dedupe: 'x' } as never, () => {}), {
    code: 'FST_BGT_INVALID_TASK_OPTION', message: "The task option 'dedupe' must be left out for a plain function: only a defined task can have it, received 'x'"
  })
  t.throws(() => app.backgroundTasks.add({ signal: true } as never, task, 1), {
    code: 'FST_BGT_INVALID_TASK_OPTION', message: "The task option 'signal' must be left out for a defined task: its context has ctx.signal, received true"
  })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('an option that the backend cannot keep', async t => {
  const backend = Object.assign(new StubBackend(), { refuses: { dedupe: 'it has no ids of its own' } })
  const { app } = await createApp(t, { tasks: [task], backend, worker: false })
  t.throws(() => app.backgroundTasks.add({ dedupe: 'x' }, task, 1), { code: 'FST_BGT_UNSUPPORTED', message: /stub.*'dedupe'.*it has no ids of its own/ })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('options behind the payload', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  const { add } = { add: app.backgroundTasks.add.bind(app.backgroundTasks) as (...args: unknown[]) => unknown }
  t.throws(() => add(task, 1, { attempts: 3 }), { code: 'FST_BGT_INVALID_TASK', message: /2 arguments for a defined task.*add\(options, task, payload\)/ })
  t.throws(() => add({ attempts: 3 }, task, 1, 2), { code: 'FST_BGT_INVALID_TASK' })
})

test('a mistyped option: did you mean', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(backgroundTasks, { concurency: 3 } as never) }, { code: 'FST_BGT_UNKNOWN_OPTION', message: /; did you mean 'concurrency'\?$/ })
  t.throws(() => sqlite({ File: 'x' } as never), { message: /; did you mean 'file'\?$/ })
  t.throws(() => defineTask('x', () => {}, { atempts: 3 } as never), { message: /received 3; did you mean 'attempts'\?$/ })
  const { app: other } = await createApp(t)
  t.throws(() => other.backgroundTasks.add({ attempt: 3 } as never, () => {}), { message: /received 3; did you mean 'attempts'\?$/ })
  t.throws(() => other.backgroundTasks.add({ retries: 3 } as never, () => {}), { message: /received 3$/ }, 'nothing is near')
})

test('a generator function, options in another place, and text for options', async t => {
  t.throws(() => defineTask('x', async function * () {} as never), { code: 'FST_BGT_INVALID_TASK' })
  t.throws(() => defineTask('x', () => {}, [] as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'options' must be an object, in the last place, received \[\]/ })
  t.throws(() => defineTask('x', { attempts: 3 } as never, (() => {}) as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /in the last place/ })
  for (const backend of [sqlite, bullmq, celery]) {
    t.throws(() => backend('redis://:secret@host' as never), { code: 'FST_BGT_INVALID_OPTION', message: /'options' must be an object, received a string$/ })
  }
})
