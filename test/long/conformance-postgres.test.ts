import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { bullmq } from '../../lib/backends/bullmq'
import { beginOnPostgres, conformance, repeatable } from '../support/conformance'
import { noPostgres, postgres } from '../support/services'

// With the plain writer: test/long/bullmq-without-direct.test.ts.

test('BullMQ on Postgres', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const options = async () => {
    const queue = `conformance-${randomUUID()}`
    return repeatable(() => ({ backend: bullmq({ connection: url, queue }) }))
  }
  conformance(t, { options, durable: true, begin: t => beginOnPostgres(t, url) })
})
