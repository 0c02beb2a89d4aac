import type { Job, JobsOptions, Queue, Worker } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import { FST_BGT_INVALID_OPTION, FST_BGT_MISSING_PACKAGE } from '../errors'
import { received } from '../received'
import type { TaskState } from '../task'
import type { TaskInfo } from '../task-index'
import type { Deliver, Delivery, StoredTask, TaskBackend } from './backend'

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

/** Milliseconds between two looks for a server that is away: soon at first, and never so rarely as BullMQ's 20 s. */
const retryStrategy = (times: number) => Math.min(50 * 2 ** times, 2_000)

/** Milliseconds in which one and the same trouble with a connection is logged once. */
const LOG_INTERVAL = 10_000

/** What a job's data holds beside what BullMQ has a place of its own for. */
interface JobData extends Pick<StoredTask, 'label' | 'payload' | 'requestId' | 'timeout' | 'dedupe'> {}

/** The reason of a failure where the task was called off while it ran. */
const CANCELLED = 'FST_BGT_CANCELLED'

/** Milliseconds that a worker waits after its server has failed it, before it asks for a task again. */
const RETRY_DELAY = 1_000

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
  /** When each trouble was logged last. */
  readonly #troubles = new Map<string, number>()

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
    const { queue, prefix, connection } = this.#options
    if (this.#postgres) {
      const { createPostgresBackend, withBackend } = this.#bullmq
      if (isPool(connection)) await this.#migrate(connection)
      this.#queue = new (withBackend(createPostgresBackend).Queue)(queue, { connection: postgresConnection(connection, prefix) as never }) as unknown as Queue
    } else {
      // A request must hear at once that Redis is away: without these, commands wait for it to come back.
      const options = redisConnection(connection, { enableOfflineQueue: false, maxRetriesPerRequest: 1 })
      this.#queue = new this.#bullmq.Queue(queue, { connection: options, ...(prefix === undefined ? {} : { prefix }) })
    }
    this.#queue.on('error', error => this.#connectionFailed(error))
    await this.#queue.waitUntilReady()
  }

  /** BullMQ leaves the tables of a ready pool to its owner. The pool's search path decides where they are. */
  async #migrate (pool: Pool): Promise<void> {
    const client = await pool.connect()
    try {
      await this.#bullmq.runMigrations(client as never, this.#options.prefix)
    } finally {
      client.release()
    }
  }

  async #load (): Promise<typeof import('bullmq')> {
    const driver = this.#postgres ? 'pg' : 'ioredis'
    try {
      require.resolve(driver)
      return await import('bullmq')
    } catch (cause) {
      if (!/MODULE_NOT_FOUND$/.test((cause as { code?: string }).code ?? '')) throw cause
      throw new FST_BGT_MISSING_PACKAGE(`The backend '${this.name}'`, `bullmq ${driver}`, { cause })
    }
  }

  #connectionFailed (err: Error): void {
    const now = Date.now()
    const trouble = err.message || String((err as { code?: unknown }).code)
    if (now - (this.#troubles.get(trouble) ?? -Infinity) < LOG_INTERVAL) return
    this.#troubles.set(trouble, now)
    this.#log.warn({ err }, `${this.name}: the connection failed`)
  }

  async store (tasks: StoredTask[]): Promise<string[]> {
    const retain = { ...RETAIN, ...this.#options.retain }
    const jobs = tasks.map(({ id, name, label, payload, requestId, attempts, backoff, delay, timeout, dedupe }) => ({
      name,
      data: { label, payload, requestId, timeout, dedupe },
      opts: {
        jobId: id,
        attempts,
        delay,
        ...(backoff === null ? {} : { backoff }),
        ...(dedupe === null ? {} : { deduplication: { id: dedupe } }),
        removeOnComplete: retain.completed,
        removeOnFail: retain.failed
      }
    }))
    if (this.#postgres || jobs.length === 1) return (await this.#queue.addBulk(jobs)).map(job => job.id as string)
    return this.#storeAll(jobs)
  }

  /** What `addBulk` does on Redis, but in a transaction: there, a server that is full or goes away may keep a part. */
  async #storeAll (jobs: Array<{ name: string, data: JobData, opts: JobsOptions }>): Promise<string[]> {
    const entries = jobs.map(({ name, data, opts }) => {
      const job = new this.#bullmq.Job(this.#queue, name, data, opts, opts.jobId)
      const jobData = job.asJSON()
      return { queueName: this.#queue.name, prefix: this.#queue.opts.prefix as string, jobData, jobId: job.id as string, parentKeyOpts: {} }
    })
    const results = await this.#queue.getBackend().addFlow(entries)
    return results.map(([error, id]) => {
      if (error !== null) throw error
      return String(id)
    })
  }

  async work (concurrency: number, deliver: Deliver): Promise<void> {
    const { queue, prefix, connection, lockDuration, stalledInterval, maxCrashes } = this.#options
    const { createPostgresBackend, Worker, withBackend } = this.#bullmq
    const options = { concurrency, lockDuration, stalledInterval, maxStalledCount: maxCrashes, runRetryDelay: RETRY_DELAY }
    // Three parameters: BullMQ makes the signal only for a processor that takes it.
    const process = (job: Job<JobData>, token?: string, signal?: AbortSignal) => this.#process(deliver, job, token as string, signal as AbortSignal)
    this.#worker = this.#postgres
      ? new (withBackend(createPostgresBackend).Worker)(queue, process as never, { connection: postgresConnection(connection, prefix) as never, ...options }) as unknown as Worker
      : new Worker(queue, process, {
        connection: redisConnection(optionsOf(connection), { maxRetriesPerRequest: null }),
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
    const end = await deliver(this.#delivery(job, signal))
    switch (end.state) {
      case 'completed': return end.result
      // BullMQ takes only errors, and reads their message and stack.
      case 'failed': throw end.error instanceof Error ? end.error : new Error(received(end.error))
      case 'cancelled': throw new UnrecoverableError(CANCELLED)
    }
    this.#log.warn({ err: end.reason, task: { id: job.id, name: job.data.label } }, `${this.name}: a background task is left to another worker`)
    if (end.delay === 0) {
      await job.moveToWait(token)
      throw new WaitingError()
    }
    await job.moveToDelayed(Date.now() + end.delay, token)
    throw new DelayedError()
  }

  #delivery (job: Job<JobData>, signal: AbortSignal): Delivery {
    const { id, name, data: { label, payload, requestId, timeout, dedupe }, opts: { attempts = 1 } } = job
    return {
      task: { id: id as string, name, label, payload, requestId, attempts, backoff: null, delay: 0, timeout, dedupe },
      // Made are those that have failed: neither one that a crash cut off, nor one that was given back.
      attempt: job.attemptsMade + 1,
      signal,
      progress: value => {
        job.updateProgress(value as number).catch(err => {
          this.#log.warn({ err, task: { id, name: label } }, `${this.name}: the progress of a background task could not be stored`)
        })
      }
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
    const cancelled = state === 'failed' && job.failedReason === CANCELLED
    return {
      id,
      name: job.data.label,
      state: cancelled ? 'cancelled' : state,
      attempts: state === 'running' ? job.attemptsMade + 1 : job.attemptsMade,
      progress: job.progress === 0 ? undefined : job.progress,
      result: state === 'completed' ? job.returnvalue ?? undefined : undefined,
      error: state === 'failed' && !cancelled ? errorOf(job) : undefined
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

  async close (ms: number): Promise<void> {
    // A server that does not answer would keep both waiting, and the process alive.
    const timer = setTimeout(() => this.#disconnect(), ms)
    try {
      await this.#worker?.close()
      await this.#queue?.close()
    } catch (error) {
      // The server is away, and cannot be told; the driver would go on looking for it.
      this.#disconnect()
      this.#connectionFailed(error as Error)
    } finally {
      clearTimeout(timer)
    }
  }

  #disconnect (): void {
    const ignore = () => {}
    this.#worker?.getBackend().disconnectBlocking(false).catch(ignore)
    this.#worker?.disconnect().catch(ignore)
    if (!isClient(this.#options.connection) && !isPool(this.#options.connection)) this.#queue?.disconnect().catch(ignore)
  }
}

function errorOf (job: Job): Error {
  const error = new Error(job.failedReason)
  const stack = job.stacktrace?.at(-1)
  if (stack !== undefined) error.stack = stack
  return error
}

/** What is used of a `pg.Pool`. */
interface Pool {
  connect (): Promise<{ release (): void }>
}

function isPool (connection: string | object): connection is Pool {
  return typeof connection === 'object' && typeof (connection as { query?: unknown }).query === 'function'
}

function isPostgres (connection: unknown): boolean {
  if (typeof connection === 'string') {
    if (/^postgres(ql)?:\/\//.test(connection)) return true
    if (/^rediss?:\/\//.test(connection)) return false
  } else if (typeof connection === 'object' && connection !== null) {
    const { connectionString, database } = connection as Record<string, unknown>
    return isPool(connection) || connectionString !== undefined || database !== undefined
  }
  throw new FST_BGT_INVALID_OPTION('connection', "'redis://…', 'postgres://…', options or a client", received(connection))
}

function postgresConnection (connection: string | object, schema: string | undefined): object {
  if (typeof connection === 'object' && isPool(connection)) return connection
  const options = typeof connection === 'string' ? { connectionString: connection } : connection
  return { migrate: true, ...options, ...(schema === undefined ? {} : { schema }) }
}

/** What makes a second client like a ready one. A cluster is copied by BullMQ. */
function optionsOf (connection: string | object): string | object {
  const { isCluster, options } = connection as { isCluster?: boolean, options?: object }
  return isClient(connection) && isCluster !== true ? options as object : connection
}

function isClient (connection: string | object): boolean {
  return typeof connection === 'object' && 'duplicate' in connection
}

/** A client that is ready is used as it is for adding. A worker, which must wait for Redis, has clients of its own. */
function redisConnection (connection: string | object, overrides: object): object {
  if (typeof connection === 'string') return { url: connection, retryStrategy, ...overrides }
  if (isClient(connection)) return connection
  return { retryStrategy, ...connection, ...overrides }
}
