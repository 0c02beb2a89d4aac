import type { JobJson, Queue } from 'bullmq'
import { JobCalls, defineCalls, type Adding } from './bullmq-redis-calls'
import { WaitingJobs, defineWaiting } from './bullmq-redis-waiting'

/* How jobs are stored in Redis: those of a few requests by one command. */

export interface Script { lua: string, numberOfKeys: number }

/** What is used of ioredis, as BullMQ wraps it. */
export interface Client {
  runCommand (name: string, args: unknown[]): Promise<unknown>
  /** What `defineCommand` has made, by name. Other clients, which BullMQ takes too, have it not. */
  readonly scriptsSet?: Record<string, Script>
  defineCommand (name: string, script: Script): void
}

/** Jobs that are sent together. */
interface Jobs {
  /** Those of one request, whole or not at all. Resolves with their ids, or with what kept them out. */
  add (jobs: JobJson[]): Promise<string[] | Error>
  /** Sends what has been added. Nothing is added after that. */
  send (): void
}

/** Jobs that go together, unless one request has more: the server must not be held up for long by 10 or 25 µs each. */
const MAX_JOBS = 100

/** Characters of data that go together, unless one request has more: ioredis makes one string of a command. */
const MAX_SIZE = 1_000_000

/** Stores jobs of a BullMQ queue in Redis. */
export class RedisWriter {
  readonly #queue: Queue
  readonly #waiting: () => Jobs
  readonly #others: () => Jobs

  private constructor (queue: Queue, waiting: () => Jobs, others: () => Jobs) {
    this.#queue = queue
    this.#waiting = waiting
    this.#others = others
  }

  /** @param queue one that is ready */
  static async open (queue: Queue): Promise<RedisWriter> {
    const backend = queue.getBackend() as unknown as Adding & { client: Promise<Client>, version: string }
    const client = await backend.client
    const scripts = defineCalls(client)
    const others = () => new JobCalls(backend, client, scripts)
    const waiting = defineWaiting(client, backend.version) ? () => new WaitingJobs(client, queue.keys) : others
    // A pipeline of ioredis knows the scripts of when it was opened; with `enableAutoPipelining` there may be one, until the turn ends.
    await new Promise(resolve => { setImmediate(resolve) })
    return new RedisWriter(queue, waiting, others)
  }

  /** Stores batches of jobs, each whole or not at all. The result has for each the ids, or the error that kept it out. */
  async add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    const gathered = new Map<() => Jobs, { jobs: Jobs, count: number, size: number }>()
    const stored = batches.map(batch => {
      const kind = batch.every(waits) ? this.#waiting : this.#others
      const size = batch.reduce((sum, { data }) => sum + data.length, 0)
      let last = gathered.get(kind)
      if (last === undefined || last.count + batch.length > MAX_JOBS || last.size + size > MAX_SIZE) {
        last?.jobs.send()
        gathered.set(kind, last = { jobs: kind(), count: 0, size: 0 })
      }
      last.count += batch.length
      last.size += size
      return last.jobs.add(batch)
    })
    for (const { jobs } of gathered.values()) jobs.send()
    const results = await Promise.all(stored)
    results.forEach((result, index) => { if (result instanceof Error) this.#takeOut(batches[index]!) })
    return results
  }

  /**
   * Redis does not undo what it did before something failed. A server that cannot be reached has its reasons to refuse this too.
   * A job with a dedupe id may by now be the task of somebody else's 2xx.
   */
  #takeOut (jobs: JobJson[]): void {
    for (const { id, deduplicationId } of jobs) if (deduplicationId === undefined) this.#queue.remove(id).catch(() => {})
  }
}

/** Whether a job has nothing to wait for but a worker. */
function waits ({ opts, deduplicationId }: JobJson): boolean {
  return opts.delay === undefined && deduplicationId === undefined
}
