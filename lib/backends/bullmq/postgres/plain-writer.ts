import type { JobJson, Queue } from 'bullmq'
import type { JobWriter } from '../job-writer'
import { addToPostgres } from './batches'
import { runOnTables, type TaskPool } from './pool'

/** A settled job that is added once more gets its dedupe id from BullMQ, and would keep it for good (6.7). */
const SETTLED = "SELECT id FROM job WHERE queue = $1 AND id = ANY($2) AND state IN ('completed', 'failed')"

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
    const settled = await this.#settled(jobs.filter(({ deduplicationId }) => deduplicationId !== undefined))
    const added = await this.#add(jobs.filter(({ id }) => !settled.has(id)))
    return jobs.map(({ id }) => settled.has(id) ? id as string : added.shift() as string)
  }

  /** The ids of those that have been stored before, and have settled: an answer to a write may be lost. */
  async #settled (jobs: JobJson[]): Promise<Set<unknown>> {
    if (jobs.length === 0) return new Set()
    const rows = await runOnTables(this.#pool, SETTLED, [this.#queue.name, jobs.map(({ id }) => id)])
    return new Set((rows as Array<{ id: string }> | null)?.map(({ id }) => id))
  }

  async #add (jobs: JobJson[]): Promise<string[]> {
    const { name: queueName, opts: { prefix } } = this.#queue
    const backend = this.#queue.getBackend()
    if (jobs.length === 0) return []
    if (jobs.length === 1) return [await backend.addJob(jobs[0]!, jobs[0]!.id)]
    const entries = (await this.#pool.onServerClock(jobs)).map(job => ({ queueName, prefix: prefix as string, jobData: job, jobId: job.id, parentKeyOpts: {} }))
    return (await backend.addFlow(entries)).map(([error, id]) => {
      if (error !== null) throw error
      return String(id)
    })
  }
}
