import type { Queue } from 'bullmq'
import { runOnTables } from './bullmq-postgres'
import type { Retention, RETAIN } from './retention'

/** Milliseconds between two looks for tasks that need not be kept any longer. */
const INTERVAL = 15_000

/** Jobs that are removed in one statement. */
const BATCH = 1_000

/**
 * BullMQ's own `clean` finds jobs by their state, and then removes them whatever that is by then (BullMQ 6.7): a failed task
 * that somebody has run again just then would be lost. It takes no number of jobs that stay, either.
 */
const PRUNE = `
  DELETE FROM job WHERE queue = $1 AND state = $2::job_state AND id IN (
    SELECT id FROM job
     WHERE queue = $1 AND state = $2::job_state AND (finished_at_ms <= $3 OR (finished_at_ms, seq) <= (
       SELECT finished_at_ms, seq FROM job WHERE queue = $1 AND state = $2::job_state
        ORDER BY finished_at_ms DESC, seq DESC OFFSET $4 LIMIT 1))
     ORDER BY finished_at_ms LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)
  RETURNING id`

/**
 * Removes settled tasks from Postgres, from time to time. BullMQ would do it with the end of each task, and there read all
 * that is kept: with 10,000 of them that took 20 ms a task, and workers that ended tasks at the same time came into
 * deadlocks, after which tasks that had completed ran again (BullMQ 6.7). In Redis the same costs next to nothing.
 */
export class Pruning {
  readonly #queue: Queue
  readonly #retain: typeof RETAIN
  readonly #failed: (error: Error) => void
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor (queue: Queue, retain: typeof RETAIN, failed: (error: Error) => void) {
    this.#queue = queue
    this.#retain = retain
    this.#failed = failed
    this.#schedule()
  }

  #schedule (): void {
    this.#timer = setTimeout(() => this.#prune(), INTERVAL)
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
    let removed = BATCH
    // Others may be removing the same.
    while (removed === BATCH && !this.#stopped) {
      const jobs = await runOnTables(this.#queue.getBackend(), PRUNE, [this.#queue.name, state, until, count])
      removed = (jobs ?? await this.#queue.clean(Date.now() - until, BATCH, state)).length
    }
  }

  stop (): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }
}
