import type { JobJson, Queue } from 'bullmq'
import type { JobWriter } from '../job-writer'
import { addToPostgres } from './batches'
import { runOnTables, type TaskPool } from './pool'

/** A settled job that is added once more gets its dedupe id from BullMQ, and would keep it for good (6.7). */
const FREE_DEDUPE_IDS = `
  DELETE FROM dedup USING job
   WHERE dedup.queue = $1 AND dedup.job_id = ANY($2) AND job.queue = $1 AND job.id = dedup.job_id AND job.state IN ('completed', 'failed')`

/**
 * Stores jobs in Postgres by public calls of BullMQ: `addFlow`, which is one statement for all jobs of a group, or `addJob` for one.
 * `addJobs` takes longer, as it makes two temporary tables each time (6.7).
 */
export class PlainPostgresWriter implements JobWriter {
  readonly kind = 'plain'
  readonly #queue: Queue
  readonly #pool: TaskPool
  readonly #failed: (error: Error) => void

  /**
   * @param queue one that is ready
   * @param failed told of an error for which no request waits
   */
  constructor (queue: Queue, pool: TaskPool, failed: (error: Error) => void) {
    this.#queue = queue
    this.#pool = pool
    this.#failed = failed
  }

  add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    return addToPostgres(batches, jobs => this.#put(jobs), this.#failed)
  }

  async #put (jobs: JobJson[]): Promise<string[]> {
    const ids = await this.#add(jobs)
    const deduped = ids.filter((id, index) => id === jobs[index]!.id && jobs[index]!.deduplicationId !== undefined)
    if (deduped.length !== 0) await runOnTables(this.#pool, FREE_DEDUPE_IDS, [this.#queue.name, deduped])
    return ids
  }

  async #add (jobs: JobJson[]): Promise<string[]> {
    const { name: queueName, opts: { prefix } } = this.#queue
    const backend = this.#queue.getBackend()
    if (jobs.length === 1) return [await backend.addJob(jobs[0]!, jobs[0]!.id)]
    const entries = (await this.#pool.onServerClock(jobs)).map(job => ({ queueName, prefix: prefix as string, jobData: job, jobId: job.id, parentKeyOpts: {} }))
    return (await backend.addFlow(entries)).map(([error, id]) => {
      if (error !== null) throw error
      return String(id)
    })
  }
}
