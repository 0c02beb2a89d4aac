import { EventEmitter } from 'node:events'
import { test } from 'tap'
import { CANCELLED, listedTask, taskRecord, type TaskJob } from '../lib/backends/bullmq/jobs'
import { type PoolSource, TaskPool } from '../lib/backends/bullmq/postgres/pool'

// The dashboard's view of a job, also of one of another program, and the times in statements for Postgres.

const job = (more: object) => ({
  id: 'a', name: 'task', data: {}, opts: {}, attemptsMade: 1, timestamp: 1_000, delay: 0, processedOn: 2_000, finishedOn: 3_000, progress: 0, stacktrace: [], ...more
}) as unknown as TaskJob

test('a cancelled job has no errors', async t => {
  t.match(taskRecord(job({ failedReason: CANCELLED, stacktrace: ['Error: cancelled\n    at x'] }), 'failed'), { state: 'cancelled', since: 3_000, errors: [], ended: 3_000 })
})

test('a job that failed without an attempt of its own has the reason as its error', async t => {
  const { state, errors } = taskRecord(job({ failedReason: 'too many workers went away' }), 'failed')
  t.equal(state, 'failed')
  t.match(errors, [{ message: 'too many workers went away' }])
})

test('a job without times is shown without them', async t => {
  t.match(listedTask(job({ processedOn: undefined }), 'running'), { state: 'running', since: null, due: null, attempt: 2 })
})

test('Postgres: times of a schedule are sent as they are, all others by the clock of the server', async t => {
  const sent: unknown[] = []
  const pool = Object.assign(new EventEmitter(), {
    async query (_statement: unknown, values: unknown[]) {
      sent.push(values)
      return { rows: [] }
    }
  })
  const tasks = new TaskPool({ pool, isOwn: false, newClient: null, clock: { ahead: async () => 60_000 }, readOnly: () => {} } as unknown as PoolSource)
  const time = 1_700_000_000_000
  await tasks.query('SELECT add_job_scheduler($1)', [time])
  await tasks.query('SELECT add_job($1)', [time])
  t.same(sent[0], [time])
  t.not((sent[1] as number[])[0], time)
})
