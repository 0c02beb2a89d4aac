import type { Job, Queue, Worker } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import { FST_BGT_INVALID_OPTION, FST_BGT_MISSING_PACKAGE } from '../errors'
import { received } from '../received'
import type { TaskState } from '../task'
import type { TaskInfo } from '../task-index'
import type { Deliver, StoredTask, TaskBackend } from './backend'

/** The options of {@link bullmq}. */
export interface BullmqOptions {
  /**
   * `redis://…`, `rediss://…`, `postgres://…` or `postgresql://…`; options of ioredis, or of node-postgres if they have a
   * `connectionString` or a `database`; or a ready client of ioredis, or a ready `pg.Pool`, which stays the caller's to
   * close.
   */
  connection: string | object
  /**
   * What the keys in Redis begin with; in Postgres, the schema.
   * @default 'bull', 'bullmq'
   */
  prefix?: string
  /**
   * The name of the queue.
   * @default 'background-tasks'
   */
  queue?: string
  /**
   * Milliseconds after which a worker that gives no sign of life loses its tasks to others. A crash is noticed after this
   * and `stalledInterval`.
   * @default 30_000
   */
  lockDuration?: number
  /**
   * Milliseconds between two looks for such workers.
   * @default 30_000
   */
  stalledInterval?: number
  /**
   * How many workers a task may take down with it before it has failed. Such ends are not attempts.
   * @default 5
   */
  maxCrashes?: number
  /**
   * How long settled tasks can be found: seconds, and how many.
   * @default { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }
   */
  retain?: { completed?: Retention, failed?: Retention }
}

/** How long, in seconds, and how many. */
export interface Retention { age: number, count: number }

const DEFAULTS = { queue: 'background-tasks', lockDuration: 30_000, stalledInterval: 30_000, maxCrashes: 5 }
const RETAIN = { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }

/** Milliseconds to leave a task alone that this worker does not know. */
const UNKNOWN_DELAY = 5_000

/** What a job's data holds beside what BullMQ has a place of its own for. */
interface JobData extends Pick<StoredTask, 'label' | 'payload' | 'requestId' | 'timeout' | 'dedupe'> {}

/** What the reason of a failure begins with where the task was called off. */
const CANCELLED = 'FST_BGT_CANCELLED: '

const STATES: Record<string, TaskState> = {
  waiting: 'pending',
  prioritized: 'pending',
  'waiting-children': 'pending',
  delayed: 'pending',
  active: 'running',
  completed: 'completed',
  failed: 'failed'
}

/**
 * Keeps tasks in BullMQ: in Redis, or in Postgres.
 * @throws FST_BGT_INVALID_OPTION
 */
export function bullmq (options: BullmqOptions): TaskBackend {
  return new BullmqBackend(options)
}

class BullmqBackend implements TaskBackend {
  readonly #options: BullmqOptions & typeof DEFAULTS
  readonly #postgres: boolean
  #bullmq!: typeof import('bullmq')
  #queue!: Queue<JobData>
  #worker: Worker<JobData> | null = null
  #log!: FastifyBaseLogger

  constructor (options: BullmqOptions) {
    this.#options = { ...DEFAULTS, ...options }
    this.#postgres = isPostgres(options.connection)
  }

  get name (): string {
    return this.#postgres ? 'BullMQ on Postgres' : 'BullMQ on Redis'
  }

  async start (log: FastifyBaseLogger): Promise<void> {
    this.#log = log
    this.#bullmq = await this.#load()
    const { Queue, createPostgresBackend } = this.#bullmq
    const { queue, prefix, connection } = this.#options
    this.#queue = this.#postgres
      ? new (this.#bullmq.withBackend(createPostgresBackend).Queue)(queue, { connection: postgresConnection(connection, prefix) as never }) as unknown as Queue
      // A request must hear at once that Redis is away: without these, commands wait for it to come back.
      : new Queue(queue, {
        connection: redisConnection(connection, { enableOfflineQueue: false, maxRetriesPerRequest: 1 }),
        ...(prefix === undefined ? {} : { prefix })
      })
    this.#queue.on('error', error => this.#connectionFailed(error))
    await this.#queue.waitUntilReady()
  }

  async #load (): Promise<typeof import('bullmq')> {
    const driver = this.#postgres ? 'pg' : 'ioredis'
    try {
      require.resolve(driver)
      return await import('bullmq')
    } catch (cause) {
      throw new FST_BGT_MISSING_PACKAGE(this.name, `bullmq ${driver}`, { cause })
    }
  }

  #connectionFailed (err: Error): void {
    this.#log.warn({ err }, `${this.name}: the connection failed`)
  }

  async store (tasks: StoredTask[]): Promise<string[]> {
    const { retain } = this.#options
    const jobs = await this.#queue.addBulk(tasks.map(({ id, name, label, payload, requestId, attempts, backoff, delay, timeout, dedupe }) => ({
      name,
      data: { label, payload, requestId, timeout, dedupe },
      opts: {
        jobId: id,
        attempts,
        delay,
        ...(backoff === null ? {} : { backoff }),
        ...(dedupe === null ? {} : { deduplication: { id: dedupe } }),
        removeOnComplete: retain?.completed ?? RETAIN.completed,
        removeOnFail: retain?.failed ?? RETAIN.failed
      }
    })))
    return jobs.map(job => job.id as string)
  }

  async work (concurrency: number, deliver: Deliver): Promise<void> {
    const { queue, prefix, connection, lockDuration, stalledInterval, maxCrashes } = this.#options
    const { createPostgresBackend, Worker, withBackend } = this.#bullmq
    const options = { concurrency, lockDuration, stalledInterval, maxStalledCount: maxCrashes }
    // Three parameters: BullMQ makes the signal only for a processor that takes it.
    const process = (job: Job<JobData>, token?: string, signal?: AbortSignal) => this.#process(deliver, job, token as string, signal as AbortSignal)
    this.#worker = this.#postgres
      ? new (withBackend(createPostgresBackend).Worker)(queue, process as never, { connection: postgresConnection(connection, prefix) as never, ...options }) as unknown as Worker
      : new Worker(queue, process, {
        connection: redisConnection(connection, { maxRetriesPerRequest: null }),
        ...(prefix === undefined ? {} : { prefix }),
        ...options
      })
    this.#worker.on('error', error => this.#connectionFailed(error))
    this.#worker.on('stalled', id => this.#log.warn({ task: { id } }, `${this.name}: a worker went away with a background task, which is handed out again`))
    // Failures of attempts are logged where they happen; this one happens nowhere.
    this.#worker.on('failed', (job, err) => {
      if (err.message.startsWith('job stalled more than')) {
        this.#log.error({ err, task: { id: job?.id, name: job?.data.label } }, 'background task failed: too many workers went away with it')
      }
    })
    await this.#worker.waitUntilReady()
  }

  async #process (deliver: Deliver, job: Job<JobData>, token: string, signal: AbortSignal): Promise<unknown> {
    const { DelayedError, WaitingError, UnrecoverableError } = this.#bullmq
    const { label, payload, requestId, timeout, dedupe } = job.data
    const task: StoredTask = {
      id: job.id as string,
      name: job.name,
      label,
      payload,
      requestId,
      attempts: job.opts.attempts ?? 1,
      backoff: null,
      delay: 0,
      timeout,
      dedupe
    }
    const progress = (value: unknown) => {
      job.updateProgress(value as number).catch(err => this.#log.warn({ err, task: { id: job.id, name: label } }, `${this.name}: the progress of a background task could not be stored`))
    }
    try {
      return await deliver({ task, attempt: job.attemptsMade + 1, signal, progress })
    } catch (error) {
      switch ((error as { code?: unknown } | null)?.code) {
        case 'FST_BGT_UNKNOWN_TASK':
          this.#log.warn({ err: error, task: { id: job.id, name: label } }, 'a background task that this worker does not know is left for another one')
          await job.moveToDelayed(Date.now() + UNKNOWN_DELAY, token)
          throw new DelayedError()
        case 'FST_BGT_CLOSE_TIMEOUT':
          await job.moveToWait(token)
          throw new WaitingError()
        case 'FST_BGT_CANCELLED':
          throw new UnrecoverableError(`${CANCELLED}${(error as Error).message}`)
      }
      // BullMQ takes only errors, and reads their message and stack.
      throw error instanceof Error ? error : new Error(received(error))
    }
  }

  async pause (): Promise<void> {
    await this.#worker?.pause(true)
  }

  async find (id: string): Promise<TaskInfo | null> {
    const job = await this.#queue.getJob(id)
    if (job === undefined) return null
    const state = STATES[await job.getState()]
    // Removed between the two commands.
    if (state === undefined) return null
    const cancelled = state === 'failed' && job.failedReason.startsWith(CANCELLED)
    return {
      id,
      name: job.data.label,
      state: cancelled ? 'cancelled' : state,
      attempts: state === 'running' ? job.attemptsMade + 1 : job.attemptsMade,
      progress: job.progress === 0 ? undefined : job.progress,
      result: state === 'completed' ? job.returnvalue ?? undefined : undefined,
      error: state === 'failed' && !cancelled ? Object.assign(new Error(job.failedReason), { stack: job.stacktrace?.at(-1) }) : undefined
    }
  }

  async cancel (id: string): Promise<boolean> {
    if (this.#worker?.cancelJob(id) === true) return true
    const job = await this.#queue.getJob(id)
    if (job === undefined || await job.isActive() || await job.isCompleted() || await job.isFailed()) return false
    try {
      await job.remove()
      return true
    } catch {
      // A worker has begun it meanwhile.
      return false
    }
  }

  async close (): Promise<void> {
    await this.#worker?.close(true)
    await this.#queue.close()
  }
}

function isPostgres (connection: unknown): boolean {
  if (typeof connection === 'string') {
    if (/^postgres(ql)?:\/\//.test(connection)) return true
    if (/^rediss?:\/\//.test(connection)) return false
  } else if (typeof connection === 'object' && connection !== null) {
    const { query, connectionString, database } = connection as Record<string, unknown>
    return typeof query === 'function' || connectionString !== undefined || database !== undefined
  }
  throw new FST_BGT_INVALID_OPTION('connection', "'redis://…', 'postgres://…', options or a client", received(connection))
}

function postgresConnection (connection: string | object, schema: string | undefined): object {
  if (typeof connection === 'object' && 'query' in connection) return connection
  const options = typeof connection === 'string' ? { connectionString: connection } : connection
  return { migrate: true, ...options, ...(schema === undefined ? {} : { schema }) }
}

/** A client that is ready is used as it is for adding; a worker, which must wait for Redis, has one like it. */
function redisConnection (connection: string | object, overrides: object): object {
  if (typeof connection === 'string') return { url: connection, ...overrides }
  if ('duplicate' in connection) return connection
  return { ...connection, ...overrides }
}
