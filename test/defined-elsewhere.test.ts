import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { sqlite } from '../lib/backends/sqlite'
import { createApp } from './support/server'
import { noPostgres, noRedis, postgres, redis } from './support/services'
import { noSqlite } from './support/sqlite'
import { StubBackend } from './support/stub-backend'
import { until } from './support/until'

// A task that is defined without a function: it can be added here, and runs in other processes.

test('it needs a backend', async t => {
  const resize = defineTask('shop.resize')
  t.equal(resize.name, 'shop.resize')
  t.throws(() => resize(undefined), { code: 'FST_BGT_NO_HANDLER', message: /'shop.resize' is defined without a function.*it cannot be called/ })
  await t.rejects(createApp(t, { tasks: [resize] }), { code: 'FST_BGT_NO_HANDLER', message: /'shop.resize'.*needs a backend, received none/ })
  const { app } = await createApp(t, { tasks: [resize], mode: 'capture' })
  t.equal(await app.backgroundTasks.add(resize).settled(), 'captured')
  t.match(app.backgroundTasks.captured, [{ name: 'shop.resize' }])
})

test('what stands in place of the function is options, or a mistake', async t => {
  t.throws(() => defineTask('name', undefined as never), { code: 'FST_BGT_INVALID_TASK' }, 'an import that is not loaded yet')
  t.throws(() => defineTask('name', null as never), { code: 'FST_BGT_INVALID_TASK' })
  t.throws(() => defineTask('name', [] as never), { code: 'FST_BGT_INVALID_TASK' })
  t.throws(() => defineTask('name', {} as never, {}), { code: 'FST_BGT_INVALID_TASK' })
  t.throws(() => defineTask('name', { handler: () => {} } as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'handler' must be one of runOn/ })
  t.throws(() => defineTask('name', { local: true } as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'local' must be false/ })
  t.throws(() => defineTask('', {}), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'name'/ })
})

test('a backend is given it with its defaults, and cannot have it run here', async t => {
  const backend = new StubBackend()
  const resize = defineTask<{ key: string }>('shop.resize', { attempts: 3, runOn: 'always' })
  const { app, log } = await createApp(t, { tasks: [resize], backend })
  app.get('/', async request => request.backgroundTasks.add({ timeout: 5 }, resize, { key: 'a' }).id)
  t.equal((await app.inject('/')).statusCode, 200)
  t.match(backend.written, [[{ name: 'shop.resize', label: 'shop.resize', payload: '{"key":"a"}', attempts: 3, timeout: 5 }]])
  const end = await backend.deliver({ name: 'shop.resize' })
  t.match(end, { state: 'not attempted', reason: { code: 'FST_BGT_NO_HANDLER' } })
  t.ok((end as { delay: number }).delay > 0)
  t.match(log.filter(({ level }) => level === 40), [{ msg: 'background task left to another worker', err: { code: 'FST_BGT_NO_HANDLER' } }])
})

/** One process adds, another one has the function. */
function acrossProcesses (name: string, skip: string | false, make: (t: Test) => Promise<() => BackgroundTasksOptions['backend']>): void {
  test(`${name}: added in one process, run in another`, { skip }, async t => {
    const backend = await make(t)
    const here = defineTask<{ n: number }, number>('double')
    const there = defineTask('double', async ({ n }: { n: number }) => n * 2)
    const { app } = await createApp(t, { tasks: [here], backend: backend()!, worker: false })
    const { app: worker } = await createApp(t, { tasks: [there], backend: backend()! })
    app.get('/', async request => request.backgroundTasks.add(here, { n: 21 }).id)
    await worker.ready()
    const id = (await app.inject('/')).body
    t.match(await until('its end', async () => {
      const info = await app.backgroundTasks.find(id)
      return info?.state === 'completed' && info
    }), { name: 'double', result: 42 })
  })
}

acrossProcesses('SQLite', noSqlite, async t => {
  const file = join(t.testdir({}), 'tasks.db')
  return () => sqlite({ file })
})

acrossProcesses('BullMQ on Redis', noRedis, async t => {
  const { url } = await redis(t)
  const queue = randomUUID()
  return () => bullmq({ connection: url, queue })
})

acrossProcesses('BullMQ on Postgres', noPostgres, async t => {
  const { url } = await postgres(t)
  const queue = randomUUID()
  return () => bullmq({ connection: url, queue })
})
