import type { Job, Queue } from 'bullmq'
import { retried } from '../retried'
import { runOnTables, type TaskPool } from './pool'

/** Clears the failure of too many crashes, with which the job would fail again. BullMQ's own `retry` keeps it (6.7). */
const FORGIVE = "UPDATE job SET deferred_failure = NULL, stalled_count = 0 WHERE queue = $1 AND id = $2 AND state = 'failed'"

/** BullMQ's own `retry` leaves the dedupe id free: a second job with this id would run beside the first (6.7). */
const RETRY = `
  WITH failed AS (SELECT id, dedup_id FROM job WHERE queue = $1 AND id = $2 AND state = 'failed' FOR UPDATE), taken AS (
    INSERT INTO dedup (queue, dedup_id, job_id) SELECT $1, dedup_id, id FROM failed WHERE dedup_id IS NOT NULL
    ON CONFLICT (queue, dedup_id) DO NOTHING RETURNING job_id)
  SELECT reprocess_job($1, id, 'failed', false, true, false) FROM failed WHERE dedup_id IS NULL OR EXISTS (SELECT FROM taken)`

/** Has a failed job run again, with all its attempts. Resolves with `false` if it has not failed, or its dedupe id is taken. */
export async function retryFailed (queue: Queue, pool: TaskPool, job: Job): Promise<boolean> {
  const values = [queue.name, job.id]
  await runOnTables(pool, FORGIVE, values)
  const rows = await runOnTables(pool, RETRY, values)
  return rows === null ? retried(job) : rows.length === 1
}

const REMOVE = `
  WITH failed AS (SELECT id FROM job WHERE queue = $1 AND id = $2 AND state = 'failed' FOR UPDATE)
  SELECT remove($1, id, false) FROM failed`

/** Removes a failed job. Resolves with `false` if it has not failed. BullMQ's own `remove` takes a job in any state. */
export async function removeFailed (queue: Queue, pool: TaskPool, id: string): Promise<boolean> {
  const rows = await runOnTables(pool, REMOVE, [queue.name, id])
  return rows !== null && rows.length === 1
}
