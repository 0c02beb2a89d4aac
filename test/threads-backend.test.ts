import { randomUUID } from 'node:crypto'
import { threadId } from 'node:worker_threads'
import { test } from 'tap'
import { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { until } from './support/until'
import { createApp, listen } from './support/server'
import { noRedis, redis } from './support/services'
import { StubBackend } from './support/stub-backend'
import { moduleFile } from './support/threads'

const TASK = `
  import { threadId } from 'node:worker_threads'
  export default async (payload, ctx) => {
    ctx.progress(50)
    ctx.log.info('from the thread')
    if (payload.fails) throw Object.assign(new Error('boom'), { code: 'E_BOOM' })
    return { payload, threadId, requestId: ctx.requestId, attempt: ctx.attempt }
  }`

test('a task that a backend hands out runs on a thread', async t => {
  const backend = new StubBackend()
  const task = defineTask<{ n: number }>('task', moduleFile(t, TASK))
  const { app, log } = await createApp(t, { tasks: [task], backend })
  await app.ready()
  const progress: unknown[] = []
  const end = await backend.deliver({ name: 'task', payload: '{"n":1}', requestId: 'req-9', attempts: 3 }, {
    attempt: 2, progress: value => { progress.push(value) }
  })
  t.match(end, { state: 'completed', result: { payload: { n: 1 }, requestId: 'req-9', attempt: 2 } })
  t.not((end as { result: { threadId: number } }).result.threadId, threadId)
  t.same(progress, [50])
  t.match(log.find(({ msg }) => msg === 'from the thread'), { reqId: 'req-9', task: { name: 'task', attempt: 2 } })
  t.match(await backend.deliver({ name: 'task', payload: '{"fails":true}', attempts: 3 }), { state: 'failed', error: { message: 'boom', code: 'E_BOOM' } })
})

test('the signal of a delivery ends its thread', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', moduleFile(t, "export default (payload, ctx) => { ctx.progress('begun'); for (;;); }"))
  const { app } = await createApp(t, { tasks: [task], backend })
  await app.ready()
  const controller = new AbortController()
  t.same(await backend.deliver({ name: 'task' }, { signal: controller.signal, progress: () => controller.abort() }), { state: 'cancelled' })
  t.same(await backend.deliver({ name: 'task', timeout: 20 }).then(({ state }) => state), 'failed', 'the pool goes on')
})

test('with `local: true` it stays here, and its payload is a clone', async t => {
  const backend = new StubBackend()
  const task = defineTask<Map<string, number>, number>('task', moduleFile(t, 'export default map => map.get("a")'), { local: true })
  const { app } = await createApp(t, { tasks: [task], backend, worker: false })
  await app.ready()
  const handle = app.backgroundTasks.add(task, new Map([['a', 5]]))
  const { id } = handle
  t.equal(await handle.settled(), 'completed')
  t.match(await app.backgroundTasks.find(id), { result: 5 })
  t.same(backend.written, [])
})

test('a BullMQ worker runs it on a thread', { skip: noRedis }, async t => {
  const { url: connection } = await redis(t)
  const queue = `threads-${randomUUID()}`
  const task = defineTask<{ n: number }>('task', moduleFile(t, TASK))
  const web = await createApp(t, { tasks: [task], backend: bullmq({ connection, queue }), worker: false })
  const worker = await createApp(t, { tasks: [task], backend: bullmq({ connection, queue }) })
  await worker.app.ready()
  web.app.get('/', async request => ({ id: request.backgroundTasks.add(task, { n: 1 }).id }))
  const { url } = await listen(web.app)
  const { id } = await (await fetch(url)).json() as { id: string }
  const info = await until('the result', async () => {
    const info = await web.app.backgroundTasks.find(id)
    return info?.state === 'completed' && info
  })
  t.match(info, { progress: 50, result: { payload: { n: 1 }, requestId: 'req-1', attempt: 1 } })
  t.not((info.result as { threadId: number }).threadId, threadId)
})
