import { randomUUID } from 'node:crypto'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import type { TaskBackend } from '../types/backend'
import { bullmq } from '../lib/backends/bullmq'
import { sqlite } from '../lib/backends/sqlite'
import { createApp, listen } from './support/server'
import { noPostgres, noRedis, postgres, redis } from './support/services'
import { newFile, noSqlite } from './support/sqlite'
import { until } from './support/until'

// The application's `genReqId` may return a value of any type.

async function runs (t: Test, backend: TaskBackend): Promise<void> {
  const seen: unknown[] = []
  const task = defineTask('task', (_payload: undefined, ctx) => { seen.push(ctx.requestId) })
  const ids: unknown[] = [7, 8n, null]
  const { app } = await createApp(t, { tasks: [task], backend }, { logger: false, genReqId: () => ids.shift() as string })
  app.get('/', async request => request.backgroundTasks.add(task).id)
  const { url } = await listen(app)
  for (const expected of ['7', '8', null]) {
    const response = await fetch(url)
    t.equal(response.status, 200)
    const id = await response.text()
    const { state } = await until('the end of the task', async () => {
      const info = await app.backgroundTasks.find(id)
      return info?.state !== 'pending' && info?.state !== 'running' && info
    })
    t.equal(state, 'completed')
    t.equal(seen.pop(), expected)
  }
}

test('SQLite: the task of a request whose id is no string runs', { skip: noSqlite }, async t => runs(t, sqlite({ file: newFile(t) })))

test('Redis: the task of a request whose id is no string runs', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  await runs(t, bullmq({ connection: url, queue: `ids-${randomUUID()}` }))
})

test('Postgres: the task of a request whose id is no string runs', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  await runs(t, bullmq({ connection: url, queue: `ids-${randomUUID()}` }))
})
