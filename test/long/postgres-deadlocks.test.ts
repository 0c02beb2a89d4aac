import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { test } from 'tap'
import { defineTask, type TaskContext } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { until } from '../support/until'
import { createApp, signal } from '../support/server'
import { noPostgres, postgres } from '../support/services'

test('a task whose end comes into a deadlock has ended all the same, and does not run again', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = `deadlocks-${randomUUID()}`
  const runs: string[] = []
  const gate = signal()
  const task = defineTask('task', async (payload: string, _ctx: TaskContext) => {
    runs.push(payload)
    if (payload === 'first') await gate.promise
  })
  // Time enough for the test to come into the deadlock before the worker looks for one, which it does once.
  const connection = { connectionString: url, options: '-c deadlock_timeout=3s' }
  const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection, queue, lockDuration: 8_000, stalledInterval: 1_000 }), worker: { concurrency: 1 } })
  await app.ready()
  const first = app.backgroundTasks.add(task, 'first')
  await until('it runs', () => runs.length === 1)
  const [second, third] = [1, 2].map(n => app.backgroundTasks.add({ delay: n }, task, `delayed by ${n}`))
  await app.backgroundTasks.flush()

  // The worker makes tasks ready that are due, in the transaction that ends the one before: it has the second one then, and
  // waits for the third one; here it is the other way round. Whoever has waited for a second first is in the deadlock.
  const other = new Client({ connectionString: url })
  await other.connect()
  t.teardown(() => other.end())
  const lock = (id: string) => other.query('SELECT FROM bullmq.job WHERE queue = $1 AND id = $2 FOR UPDATE', [queue, id])
  await other.query("SET deadlock_timeout = '1min'")
  await other.query('BEGIN')
  await lock(third!.id)
  const before = await deadlocks(other)
  gate.resolve()
  await until('the worker waits', async () => (await other.query('SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))')).rowCount !== 0)
  await lock(second!.id)
  await other.query('COMMIT')

  await until('all have run', () => runs.length === 3)
  await until('the last one has ended', async () => (await app.backgroundTasks.find(third!.id))?.state === 'completed')
  t.ok(await until('there was one', async () => await deadlocks(other) > before))
  t.match(await app.backgroundTasks.find(first.id), { state: 'completed', attempts: 1 })
  t.same(runs, ['first', 'delayed by 1', 'delayed by 2'])
  t.same(log.filter(({ level }) => level >= 40).map(({ msg }) => msg), [], 'and nobody is in trouble')
})

async function deadlocks (client: Client): Promise<number> {
  return Number((await client.query('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()')).rows[0].deadlocks)
}
