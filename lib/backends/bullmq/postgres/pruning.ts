import type { Queue } from 'bullmq'
import { clearTimeout, setTimeout } from '../../../shared/timers'
import type { RETAIN, Retention } from '../../retention'
import { runOnTables, type TaskPool } from './pool'

const INTERVAL_MS = 15_000

/** Jobs that one statement removes. */
const BATCH_JOBS = 1_000

/**
 * BullMQ's own `clean` finds jobs by their state, and then removes them without another look (6.7): a failed job that was just run again
 * would be lost. Nor does it take a number of jobs to keep.
 */
const PRUNE = `
  DELETE FROM job WHERE queue = $1 AND state = $2::job_state AND id IN (
    SELECT id FROM job
     WHERE queue = $1 AND state = $2::job_state AND (finished_at_ms <= $3 OR (finished_at_ms, seq) <= (
       SELECT finished_at_ms, seq FROM job WHERE queue = $1 AND state = $2::job_state
        ORDER BY finished_at_ms DESC, seq DESC OFFSET $4 LIMIT 1))
     ORDER BY finished_at_ms LIMIT ${BATCH_JOBS} FOR UPDATE SKIP LOCKED)
  RETURNING id`

/**
 * Removes settled jobs from Postgres every 15 s. BullMQ would do it with the end of each job, and read all that are kept: 20 ms a job with
 * 10,000 of them, and deadlocks between workers (6.7). Made when the worker is ready, stopped by its close.
 */
export class Pruning {
  readonly #queue: Queue
  readonly #pool: TaskPool
  readonly #retain: typeof RETAIN
  readonly #failed: (error: Error) => void
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor (queue: Queue, pool: TaskPool, retain: typeof RETAIN, failed: (error: Error) => void) {
    this.#queue = queue
    this.#pool = pool
    this.#retain = retain
    this.#failed = failed
    this.#schedule()
  }

  #schedule (): void {
    this.#timer = setTimeout(() => this.#prune(), INTERVAL_MS)
  }

  async #prune (): Promise<void> {
    try {
      for (const state of ['completed', 'failed'] as const) await this.#remove(state, this.#retain[state])
    } catch (error) {
      if (!this.#stopped) this.#failed(error as Error)
    }
    if (!this.#stopped) this.#schedule()
  }

  async #remove (state: 'completed' | 'failed', { age, count }: Retention): Promise<void> {
    const until = Math.max(Math.floor(Date.now() - age * 1_000), 0)
    let removed = BATCH_JOBS
    // Other workers remove the same jobs: SKIP LOCKED leaves them out.
    while (removed === BATCH_JOBS && !this.#stopped) {
      const jobs = await runOnTables(this.#pool, PRUNE, [this.#queue.name, state, until, count])
      removed = (jobs ?? await this.#queue.clean(Date.now() - until, BATCH_JOBS, state)).length
    }
  }

  stop (): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }
}
