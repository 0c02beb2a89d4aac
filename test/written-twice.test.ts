import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import pino from 'pino'
import { test, type Test } from 'tap'
import { bullmq } from '../lib/backends/bullmq'
import { sqlite } from '../lib/backends/sqlite'
import { noPostgres, noRedis, postgres, redis } from './support/services'
import { noSqlite } from './support/sqlite'
import { storedTask, work } from './support/stub-backend'
import { until } from './support/until'
import type { TaskBackend } from '../types/backend'

// The answer to a write may be lost, and the task may have run when it is written again.

async function writeTwice (t: Test, backend: TaskBackend, dedupe: string | null): Promise<void> {
  const log = pino({ level: 'silent' })
  await backend.start(log, () => log, 5_000, new Map())
  t.teardown(() => backend.close(5_000))
  const runs: string[] = []
  await work(backend, 1, async ({ task: { id } }) => {
    runs.push(id)
    return { state: 'completed', result: null }
  })
  const tasks = [1, 2].map(() => storedTask({ id: randomUUID(), name: 'task', dedupe }))
  for (const task of tasks) {
    for (const time of ['first', 'second']) {
      t.same(await backend.store([[task]]), [[task.id]], `the ${time} time`)
      await until('it has run', async () => (await backend.find(task.id))?.state === 'completed')
    }
  }
  t.same(runs, tasks.map(({ id }) => id))
}

async function eachDedupeId (t: Test, connect: () => TaskBackend): Promise<void> {
  for (const dedupe of [null, 'report']) await t.test(`dedupe: ${dedupe}`, t => writeTwice(t, connect(), dedupe))
}

for (const writer of ['plain', 'direct'] as const) {
  test(`Redis, ${writer}: it runs once, and its dedupe id is free for another one`, { skip: noRedis }, async t => {
    const { url } = await redis(t)
    await eachDedupeId(t, () => bullmq({ connection: url, queue: `twice-${randomUUID()}`, writer }))
  })

  test(`Postgres, ${writer}: the same`, { skip: noPostgres }, async t => {
    const { url } = await postgres(t)
    await eachDedupeId(t, () => bullmq({ connection: url, queue: `twice-${randomUUID()}`, writer }))
  })
}

test('SQLite: the same', { skip: noSqlite }, t => eachDedupeId(t, () => sqlite({ file: join(t.testdir({}), `${randomUUID()}.db`) })))
