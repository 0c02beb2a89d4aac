import type { ConsumeMessage } from 'amqplib'
import { test } from 'tap'
import { readMessage } from '../lib/backends/celery/incoming'
import { messageOf } from '../lib/backends/celery/message'
import { storedTask } from './support/stub-backend'

// The headers of Celery's protocol, as they are written and read.

const DEFINED_MS = 7_000

function timeoutOf (timelimit: unknown): number {
  const properties = { contentType: 'application/json', contentEncoding: 'utf-8', headers: { task: 'task', id: 'id', timelimit } }
  const message = { content: Buffer.from('[[], {}, {}]'), properties } as unknown as ConsumeMessage
  return readMessage(message, () => ({ attempts: 1, backoff: null, timeout: DEFINED_MS, singleArgument: false })).task.timeout
}

test("Celery's time limits, in seconds: the shorter one counts, and the definition's timeout where there is none", async t => {
  const limits: Array<[unknown, number]> = [
    [[5, 3], 3_000], [[3, 5], 3_000], [[5, null], 5_000], [[null, 5], 5_000], [[0.5, null], 500],
    [[null, null], DEFINED_MS], [[0, null], DEFINED_MS], [[-1, 5], 5_000], [['5', null], DEFINED_MS], [[], DEFINED_MS], [undefined, DEFINED_MS], ['x', DEFINED_MS]
  ]
  for (const [timelimit, timeout] of limits) t.equal(timeoutOf(timelimit), timeout, JSON.stringify(timelimit))
})

test('a message says what wrote it, and that its task is the first of its own tree', async t => {
  const { id, name } = storedTask({ name: 'task' })
  const { properties } = messageOf(storedTask({ name }), 'queue', false, Date.now())
  t.match(properties.headers, { lang: 'js', task: name, id, root_id: id, parent_id: null, group: null })
})
