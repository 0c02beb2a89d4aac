import type { Processor, Queue, Worker } from 'bullmq'
import { isClient } from '../../redis'
import { isCluster } from '../connection'
import type { JobWriter } from '../job-writer'
import type { JobData, TaskJob } from '../jobs'
import type { ResolvedOptions } from '../options'
import type { ScheduleRecords } from '../schedule-record'
import type { BullMQ, CommonWorkerOptions, Server } from '../server'
import { checkNode } from './cluster'
import { optionsOf, redisConnection } from './connection'
import { PlainRedisWriter } from './plain-writer'
import { removeFailed, retryFailed } from './failed'
import { RedisSchedules } from './schedules'
import { repairActive } from './unreadable'

/** BullMQ on Redis. */
export class RedisServer implements Server {
  readonly name = 'BullMQ on Redis'
  readonly packages = 'bullmq ioredis'
  /** Redis takes one command after the other from all clients. */
  readonly writes = Infinity
  readonly isJsonb = false
  readonly pool = null
  readonly #options: ResolvedOptions
  readonly #trouble: (error: Error) => void
  #bullmq!: BullMQ

  /** @param trouble told of an error for which nobody waits */
  constructor (options: ResolvedOptions, trouble: (error: Error) => void) {
    this.#options = options
    this.#trouble = trouble
  }

  load (): BullMQ {
    // A bundler sees literal names in calls of `require`.
    require('ioredis')
    this.#bullmq = require('bullmq')
    return this.#bullmq
  }

  async openQueue (silenceMs: number): Promise<Queue<JobData>> {
    const { connection, queue } = this.#options
    // A request must hear at once that Redis is away: by default commands would wait for it to come back.
    const options = redisConnection(connection, silenceMs, { enableOfflineQueue: false, maxRetriesPerRequest: 1 })
    return new this.#bullmq.Queue<JobData>(queue, { connection: options, ...this.#prefix() }).on('error', this.#trouble)
  }

  #prefix (): { prefix?: string } {
    const { prefix } = this.#options
    return prefix === undefined ? {} : { prefix }
  }

  check (queue: Queue<JobData>): Promise<void> {
    return checkNode(queue)
  }

  plainWriter (queue: Queue<JobData>): JobWriter {
    return new PlainRedisWriter(queue)
  }

  schedules (queue: Queue<JobData>): ScheduleRecords {
    return new RedisSchedules(queue)
  }

  openWorker (process: Processor<JobData>, options: CommonWorkerOptions, silenceMs: number): Worker<JobData> {
    const { connection, queue, retain } = this.#options
    return new this.#bullmq.Worker(queue, process, {
      connection: redisConnection(optionsOf(connection), silenceMs, { maxRetriesPerRequest: null, socketTimeout: silenceMs }),
      removeOnComplete: retain.completed,
      removeOnFail: retain.failed,
      ...this.#prefix(),
      ...options
    })
  }

  /** BullMQ removes settled jobs itself, with the end of each. */
  attend (): void {}

  /** Redis takes any text. */
  isAboutData (): boolean {
    return false
  }

  repair (queue: Queue<JobData>): Promise<Array<{ job: TaskJob, flaw: string }>> {
    return repairActive(queue)
  }

  removeWaiting (_queue: Queue<JobData>, job: TaskJob): Promise<boolean> {
    return job.remove().then(() => true, () => false)
  }

  removeFailed (queue: Queue<JobData>, id: string): Promise<boolean> {
    return removeFailed(queue, id)
  }

  retry (queue: Queue<JobData>, job: TaskJob): Promise<boolean> {
    return retryFailed(queue, job)
  }

  stop (): void {}

  async end (): Promise<void> {}

  disconnect (queue: Queue<JobData> | null, worker: Worker<JobData> | null): Promise<unknown> {
    const { connection } = this.#options
    return Promise.allSettled([
      worker?.getBackend().disconnectBlocking(false),
      // A worker uses a ready cluster as the queue does.
      isCluster(connection) ? null : worker?.disconnect(),
      isClient(connection) ? null : queue?.disconnect()
    ])
  }
}
