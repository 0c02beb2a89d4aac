import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { bullmq } from '../../lib/backends/bullmq'
import { conformance, repeatable } from '../support/conformance'
import { noRedis, redis } from '../support/services'

for (const writer of ['direct', 'plain'] as const) {
  test(`BullMQ on Redis, ${writer}`, { skip: noRedis }, async t => {
    const { url } = await redis(t)
    const options = async () => {
      const queue = `conformance-${randomUUID()}`
      return repeatable(() => ({ backend: bullmq({ connection: url, queue, writer }) }))
    }
    conformance(t, { options, durable: true })
  })
}
