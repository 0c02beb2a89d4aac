import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { bullmq } from '../lib/backends/bullmq'
import { answering } from './support/answering'
import { noRedis, redis } from './support/services'

// The table of answering.test.ts, where a server keeps the tasks.

for (const writer of ['direct', 'plain'] as const) {
  test(`BullMQ on Redis, ${writer}`, { skip: noRedis }, async t => {
    const { url } = await redis(t)
    answering(t, { options: () => ({ backend: bullmq({ connection: url, queue: `answering-${randomUUID()}`, writer }) }) })
  })
}
