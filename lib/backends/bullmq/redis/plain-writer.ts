import type { JobJson, Queue } from 'bullmq'
import type { JobWriter } from '../job-writer'
import { RedisBatches } from './batches'

/**
 * Redis' codes of errors that ioredis mends itself where the command was sent alone: it sends a script that the server has
 * forgotten, and asks `reconnectOnError` about a server that has become a replica. Inside a transaction it does neither (6.0).
 */
const MENDED_ALONE = /\b(?:NOSCRIPT|READONLY)\b/

/**
 * Stores jobs in Redis by public calls of BullMQ's `IQueueBackend`: one alone by `addJob`, several of a batch by `addFlow`, which is one
 * transaction (MULTI). `Queue.addBulk` is none, and `FlowProducer.addBulk` does not say that a job was kept out (6.7).
 */
export class PlainRedisWriter implements JobWriter {
  readonly kind = 'plain'
  readonly #queue: Queue
  readonly #batches: RedisBatches

  /** @param queue one that is ready */
  constructor (queue: Queue) {
    this.#queue = queue
    this.#batches = new RedisBatches(queue, group => this.#put(group))
  }

  add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    return this.#batches.add(batches)
  }

  #put (group: JobJson[][]): Promise<Array<string[] | Error>> {
    return Promise.all(group.map(async batch => {
      // For one job a transaction costs more than the job.
      const results = batch.length === 1 ? [await this.#addAlone(batch[0]!)] : await this.#addTogether(batch)
      return results.find(result => result instanceof Error) ?? results as string[]
    }))
  }

  async #addAlone (job: JobJson): Promise<string | Error> {
    return this.#queue.getBackend().addJob(job, job.id).catch((error: Error) => error)
  }

  async #addTogether (jobs: JobJson[]): Promise<Array<string | Error>> {
    const results = await this.#addFlow(jobs)
    return Promise.all(results.map((result, index) => result instanceof Error && MENDED_ALONE.test(result.message) ? this.#addAlone(jobs[index]!) : result))
  }

  async #addFlow (jobs: JobJson[]): Promise<Array<string | Error>> {
    const { name: queueName, opts: { prefix } } = this.#queue
    try {
      const replies = await this.#queue.getBackend().addFlow(jobs.map(job => ({ queueName, prefix: prefix as string, jobData: job, jobId: job.id, parentKeyOpts: {} })))
      return replies.map(([error, id]) => error ?? (typeof id === 'string' ? id : new Error(`BullMQ refused a job with the code ${id}`)))
    } catch (error) {
      // The error of a transaction that was not begun says only that; those of its commands say why.
      const [cause = error] = (error as { previousErrors?: unknown[] }).previousErrors ?? []
      return jobs.map(() => cause as Error)
    }
  }
}
