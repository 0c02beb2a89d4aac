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
  await work(backend, 1, async ({ task: { id, label } }) => {
    runs.push(id)
    return label === 'fails' ? { state: 'failed', error: new Error('no') } : { state: 'completed', result: null }
  })
  const ran: string[] = []
  // Alone, and with another one in the same write.
  for (const [label, others] of [['task', 0], ['fails', 1], ['task', 1], ['last', 0]] as const) {
    const task = storedTask({ id: randomUUID(), name: 'task', label, dedupe })
    const batch = [task, ...Array.from({ length: others }, () => storedTask({ id: randomUUID(), name: 'task' }))]
    const ids = batch.map(({ id }) => id)
    for (const time of ['first', 'second']) {
      t.same(await backend.store([batch]), [ids], `${label}, the ${time} time`)
      for (const id of ids) await until('it has run', async () => /completed|failed/.test((await backend.find(id))!.state))
    }
    ran.push(...ids)
  }
  t.same(runs, ran)
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
