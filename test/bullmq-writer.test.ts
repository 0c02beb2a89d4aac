import { randomUUID } from 'node:crypto'
import type { Queue } from 'bullmq'
import { test } from 'tap'
import { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { chooseWriter } from '../lib/backends/bullmq/choose-writer'
import type { JobWriter } from '../lib/backends/bullmq/job-writer'
import { addToPostgres } from '../lib/backends/bullmq/postgres/batches'
import { createApp } from './support/server'
import { noPostgres, noRedis, postgres, redis } from './support/services'

// Which writer stores the tasks: one of this package, where it knows BullMQ's version, or BullMQ's public calls.

const { version } = require('bullmq/package.json')
const task = defineTask('task', async () => {})

for (const [name, skip, server] of [['Redis', noRedis, redis], ['Postgres', noPostgres, postgres]] as const) {
  test(`${name}: the version that is installed is known; the option has BullMQ store the tasks; the log says which is used`, { skip }, async t => {
    const { url } = await server(t)
    for (const [options, writer] of [[{}, 'direct'], [{ writer: 'direct' }, 'direct'], [{ writer: 'plain' }, 'plain']] as const) {
      const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue: `writer-${randomUUID()}`, ...options }) })
      await app.ready()
      t.match(log.filter(({ msg }) => msg.includes('tasks are stored by')), [{ level: 20, writer, bullmq: version, msg: writer === 'plain' ? /BullMQ's public calls/ : /this package's own commands/ }])
      t.equal(await app.backgroundTasks.add(task).settled(), 'completed')
      await app.close()
    }
  })
}

test('beside a version that is not known BullMQ stores the tasks', async t => {
  const plain: JobWriter = { kind: 'plain', add: async () => [] }
  for (const version of ['bullmq:6.7.1', 'bullmq:7.0.0', undefined]) {
    const queue = { metaValues: { version } } as unknown as Queue
    t.equal(await chooseWriter('direct', plain, { queue, pool: null, failed: () => {} }), plain)
  }
})

test('there are two writers', async t => {
  t.throws(() => bullmq({ connection: 'redis://127.0.0.1', writer: 'fast' as never }), { code: 'FST_BGT_INVALID_OPTION', message: /'writer' must be 'direct' or 'plain'/ })
})

test('Postgres: an error that is not its answer is told, as the request may have stopped waiting', async t => {
  const silent = new Error('timeout exceeded when trying to connect')
  const refused = Object.assign(new Error('permission denied'), { code: '42501' })
  for (const [error, told] of [[silent, [silent]], [refused, []]] as const) {
    const failures: Error[] = []
    const ends = await addToPostgres([[], []], async () => { throw error }, failure => failures.push(failure))
    t.strictSame(ends, [error, error])
    t.strictSame(failures, told)
  }
})
