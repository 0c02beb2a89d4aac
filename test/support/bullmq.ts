import type { Queue } from 'bullmq'
import { randomUUID } from 'node:crypto'
import type { Test } from 'tap'
import { resolveOptions } from '../../lib/backends/bullmq/options'
import type { TaskPool } from '../../lib/backends/bullmq/postgres/pool'
import { PostgresServer } from '../../lib/backends/bullmq/postgres/server'
import { NEVER_MS } from './until'

/** A queue on Postgres as the backend opens it, and its connections. */
export async function openPostgres (t: Test, url: string, schema = 'bullmq'): Promise<{ queue: Queue, pool: TaskPool }> {
  const server = new PostgresServer(resolveOptions({ connection: url, prefix: schema, queue: `queue-${randomUUID()}` }), error => { throw error })
  server.load()
  const queue = await server.openQueue(NEVER_MS)
  t.teardown(async () => {
    await queue.close()
    await server.end()
  })
  await queue.waitUntilReady()
  return { queue, pool: server.pool }
}
