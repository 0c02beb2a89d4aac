import type { JobJson, Queue } from 'bullmq'
import { AT_ONCE } from '../../../shared/slices'
import { grouped, type GroupLimits } from '../groups'

/** Redis answers no other command for 10 to 25 µs a job; ioredis makes one string of a command. */
const LIMITS: GroupLimits = { jobs: 100, chars: 1_000_000 }

/** Stores jobs at once. The result has for each batch the ids, or the error that kept a job of it out. */
export type Put = (batches: JobJson[][]) => Promise<Array<string[] | Error>>

/** Stores batches in Redis, in groups, and removes what was stored of a batch that was refused. */
export class RedisBatches {
  readonly #queue: Queue
  readonly #put: Put

  constructor (queue: Queue, put: Put) {
    this.#queue = queue
    this.#put = put
  }

  async add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    const results = await Promise.all(grouped(batches, LIMITS).map(async group => {
      const [first] = group as [JobJson[]]
      return first.length > AT_ONCE ? [await this.#addInPieces(first)] : this.#addGroup(group)
    }))
    return results.flat()
  }

  async #addGroup (group: JobJson[][]): Promise<Array<string[] | Error>> {
    const results = await this.#put(group)
    results.forEach((result, index) => { if (result instanceof Error) this.#remove(group[index]!) })
    return results
  }

  /** One batch of many jobs: between two pieces Redis answers other clients. */
  async #addInPieces (jobs: JobJson[]): Promise<string[] | Error> {
    const ids: string[] = []
    for (let from = 0; from < jobs.length; from += AT_ONCE) {
      const [stored] = await this.#addGroup([jobs.slice(from, from + AT_ONCE)])
      if (stored instanceof Error) {
        for (let end = from; end > 0; end -= AT_ONCE) await this.#remove(jobs.slice(end - AT_ONCE, end))
        return stored
      }
      ids.push(...stored!)
    }
    return ids
  }

  /**
   * Redis does not undo what a script did before it failed. Where the server cannot be reached, removing fails too.
   * A job with a dedupe id stays: another request may have been told that it is stored.
   */
  async #remove (jobs: JobJson[]): Promise<void> {
    await Promise.allSettled(jobs.map(async ({ id, deduplicationId }) => deduplicationId === undefined && this.#queue.remove(id)))
  }
}
