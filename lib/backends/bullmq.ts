import type { Queue, Worker } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import { checkOptions, count, period, text, type Checks } from '../check-options'
import { setDeadline } from '../deadline'
import { FST_BGT_INVALID_OPTION, FST_BGT_MISSING_PACKAGE } from '../errors'
import { reasonOf, received } from '../received'
import type { LogOf } from '../request-log'
import type { TaskInfo } from '../task-index'
import type { Deliver, Delivery, StoredTask, TaskBackend, TaskList } from './backend'
import { isClient, isCluster, isPool, isPostgres, optionsOf, PostgresConnections, redisConnection, type Pool } from './bullmq-connection'
import { CANCELLED, LISTED, listedTask, loggedTask, newJob, stateOf, storedFailure, storedResult, storedTask, taskInfo, type JobData, type TaskJob } from './bullmq-jobs'
import { inSchema, retryingDeadlocks, runOnTables } from './bullmq-postgres'
import { PostgresWriter } from './bullmq-postgres-writer'
import { Pruning } from './bullmq-pruning'
import { RedisWriter } from './bullmq-redis-writer'
import { RETAIN, retention, type Retention } from './retention'
import { Troubles } from './troubles'

export type { Retention } from './retention'

/** The options of {@link bullmq}. */
export interface BullmqOptions {
  /**
   * `redis://…`, `rediss://…`, `postgres://…` or `postgresql://…`; options of ioredis, or of node-postgres if they have a
   * `connectionString` or a `database`; or a ready client of ioredis, or a ready `pg.Pool`, which stays the caller's to
   * close.
   */
  connection: string | object
  /**
   * What the keys in Redis begin with; in Postgres, the schema. In a cluster of Redis it has braces, as in `{bull}`, which
   * keep the keys of a queue on one node.
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
   * How long settled tasks can be found: seconds, and how many. The workers remove the others: in Redis with each task that
   * settles, in Postgres every 15 s.
   * @default { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }
   */
  retain?: { completed?: Retention, failed?: Retention }
}

const DEFAULTS = { queue: 'background-tasks', lockDuration: 30_000, stalledInterval: 30_000, maxCrashes: 5 }

const CHECKS: Checks<BullmqOptions> = {
  // Looked at more closely by `isPostgres`.
  connection: ['a URL, options or a client', value => value !== ''],
  prefix: text,
  queue: text,
  lockDuration: period,
  stalledInterval: period,
  maxCrashes: count,
  retain: retention
}

/** Transactions that store tasks at the same time. */
const POSTGRES_WRITES = 2

/** What a worker says of a task that it had for longer than `lockDuration` without a sign of life. */
const LOST = /^(?:could not renew lock for|Missing lock for|Lock mismatch for) job ([^\s.]+)/

/**
 * BullMQ's own `remove`, for a row that is held meanwhile: by itself it looks for the lock of a worker first (BullMQ 6.7), and
 * then takes the job from one that was just taking it.
 */
const REMOVE = `
  WITH pending AS (SELECT id FROM job WHERE queue = $1 AND id = $2 AND state IN ('waiting', 'delayed') FOR UPDATE)
  SELECT remove($1, id, false) FROM pending`

/** Milliseconds that a worker waits after its server has failed it, before it asks for a task again. */
const RETRY_DELAY = 1_000

/**
 * Keeps tasks in BullMQ: in Redis, or in Postgres.
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION
 */
export function bullmq (options: BullmqOptions): TaskBackend {
  return new BullmqBackend(options)
}

class BullmqBackend implements TaskBackend {
  readonly #options: BullmqOptions & typeof DEFAULTS
  readonly #postgres: boolean
  readonly #retain: typeof RETAIN
  #bullmq!: typeof import('bullmq')
  /** What is to be told of it when the application starts. */
  #missing: Error | null = null
  #queue!: Queue<JobData>
  #writer!: RedisWriter | PostgresWriter
  #worker: Worker<JobData> | null = null
  #pruning: Pruning | null = null
  #log!: FastifyBaseLogger
  #logs!: LogOf
  readonly #postgresConnections = new PostgresConnections()
  readonly #troubles = new Troubles()
  #closed = false

  constructor (options: BullmqOptions) {
    this.#options = checkOptions({ ...options, connection: options?.connection }, DEFAULTS, CHECKS)
    this.#retain = { ...RETAIN, ...options.retain }
    this.#postgres = isPostgres(options.connection)
    const { connection, prefix = '', queue } = this.#options
    if (isCluster(connection) && !/\{[^}]+\}/.test(prefix + queue)) {
      throw new FST_BGT_INVALID_OPTION('prefix', "one with a part in braces, such as '{bull}', for a cluster", received(options.prefix))
    }
    this.#load()
  }

  /**
   * Here, among the application's own modules, and not when it starts: a collection of garbage on the way takes from V8 what it
   * has learned of `process.nextTick` until then, and that takes 6 to 12% of a server's time ever after (Node 20).
   */
  #load (): void {
    const driver = this.#postgres ? 'pg' : 'ioredis'
    try {
      require.resolve(driver)
      this.#bullmq = require('bullmq')
    } catch (cause) {
      this.#missing = (cause as { code?: unknown }).code === 'MODULE_NOT_FOUND'
        ? new FST_BGT_MISSING_PACKAGE(`The backend '${this.name}'`, `bullmq ${driver}`, { cause })
        : cause as Error
    }
  }

  /** Redis works off one command after the other, whoever waits for it; Postgres commits each write to the disk. */
  get writes (): number {
    return this.#postgres ? POSTGRES_WRITES : Infinity
  }

  get name (): string {
    return this.#postgres ? 'BullMQ on Postgres' : 'BullMQ on Redis'
  }

  async start (log: FastifyBaseLogger, logOf: LogOf): Promise<void> {
    this.#log = log
    this.#logs = logOf
    this.#closed = false
    if (this.#missing !== null) throw this.#missing
    const { queue, prefix, connection } = this.#options
    if (this.#postgres) {
      if (isPool(connection)) await this.#migrate(connection)
      this.#queue = new (this.#withPostgres().Queue)(queue, { connection: this.#postgresConnection() as never }) as unknown as Queue
    } else {
      // A request must hear at once that Redis is away: without these, commands wait for it to come back.
      const options = redisConnection(connection, { enableOfflineQueue: false, maxRetriesPerRequest: 1 })
      this.#queue = new this.#bullmq.Queue(queue, { connection: options, ...(prefix === undefined ? {} : { prefix }) })
    }
    this.#queue.on('error', error => this.#inTrouble(error))
    await this.#queue.waitUntilReady()
    this.#writer = this.#postgres ? new PostgresWriter(this.#queue, error => this.#inTrouble(error)) : await RedisWriter.open(this.#queue)
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

  #withPostgres () {
    const { createPostgresBackend, withBackend } = this.#bullmq
    return withBackend(inSchema(retryingDeadlocks(createPostgresBackend), this.#options.prefix))
  }

  #postgresConnection (): object {
    return this.#postgresConnections.options(this.#options.connection, this.#options.prefix)
  }

  /** Not only a connection that fails: a server that is full, a lock that could not be renewed. */
  #inTrouble (err: Error): void {
    if (this.#troubles.isNew(String(reasonOf(err)))) this.#log.warn({ err }, `${this.name} is in trouble`)
  }

  #workerFailed (err: Error): void {
    const id = LOST.exec(err.message)?.[1]
    if (id === undefined) this.#inTrouble(err)
    // Said when it is noticed, and once more when the task ends.
    else if (this.#troubles.isNew(`lost ${id}`)) this.#logAbout(id, `${this.name}: this worker gave no sign of life for too long, and a background task of it is handed out again`)
  }

  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    const now = Date.now()
    return this.#writer.add(batches.map(tasks => tasks.map(task => newJob(task, now))))
  }

  async work (concurrency: number, deliver: Deliver): Promise<void> {
    const { queue, prefix, connection, lockDuration, stalledInterval, maxCrashes } = this.#options
    const { Worker } = this.#bullmq
    const options = { concurrency, lockDuration, stalledInterval, maxStalledCount: maxCrashes, runRetryDelay: RETRY_DELAY }
    // Three parameters: BullMQ makes the signal only for a processor that takes it.
    const process = (job: TaskJob, token?: string, signal?: AbortSignal) => this.#process(deliver, job, token as string, signal as AbortSignal)
    this.#worker = this.#postgres
      ? new (this.#withPostgres().Worker)(queue, process as never, { connection: this.#postgresConnection() as never, ...options }) as unknown as Worker
      : new Worker(queue, process, {
        connection: redisConnection(optionsOf(connection), { maxRetriesPerRequest: null }),
        removeOnComplete: this.#retain.completed,
        removeOnFail: this.#retain.failed,
        ...(prefix === undefined ? {} : { prefix }),
        ...options
      })
    this.#worker.on('error', error => this.#workerFailed(error))
    this.#worker.on('stalled', id => this.#logAbout(id, `${this.name}: a worker went away with a background task, which is handed out again`))
    // Failures of attempts are logged where they happen; this one happens nowhere.
    this.#worker.on('failed', (job, err) => {
      if (err.message.startsWith('job stalled more than')) {
        this.#logOf(job).error({ err, task: loggedTask(job) }, 'background task failed: too many workers went away with it')
      }
    })
    await this.#worker.waitUntilReady()
    // A start that was given up goes on until its server answers.
    if (this.#postgres && !this.#closed) this.#pruning = new Pruning(this.#queue, this.#retain, error => this.#inTrouble(error))
  }

  #logOf (job: TaskJob | undefined): FastifyBaseLogger {
    return this.#logs(job?.data.requestId ?? null)
  }

  async #logAbout (id: string, message: string): Promise<void> {
    // What it says of the task is worth a look at the queue, if that answers.
    const job = await this.#queue.getJob(id).catch(() => undefined)
    this.#logOf(job).warn({ task: { id, ...loggedTask(job) } }, message)
  }

  async #process (deliver: Deliver, job: TaskJob, token: string, signal: AbortSignal): Promise<unknown> {
    const { DelayedError, WaitingError, UnrecoverableError } = this.#bullmq
    const end = await deliver(this.#delivery(job, signal))
    switch (end.state) {
      case 'completed':
        // Whatever keeps BullMQ from noting that, a server that is just going away for one, it would take for the task's
        // failure. So the task stays with this worker until its lock runs out, and is handed out again.
        job.moveToFailed = async error => { throw error }
        return this.#storedResult(job, end.result)
      case 'failed': throw storedFailure(end.error, UnrecoverableError)
      case 'cancelled': throw new UnrecoverableError(CANCELLED)
    }
    try {
      if (end.delay === 0) await job.moveToWait(token)
      else await job.moveToDelayed(Date.now() + end.delay, token)
    } catch (error) {
      // The same: it was not even attempted.
      this.#workerFailed(error as Error)
    }
    throw end.delay === 0 ? new WaitingError() : new DelayedError()
  }

  /** What JSON does not take must not make a failure of a task that has done its work. */
  #storedResult (job: TaskJob, result: unknown): unknown {
    try {
      return storedResult(result)
    } catch (err) {
      this.#logOf(job).warn({ err, task: loggedTask(job) }, `${this.name}: the result of a background task could not be stored`)
      return undefined
    }
  }

  #delivery (job: TaskJob, signal: AbortSignal): Delivery {
    return {
      task: storedTask(job),
      // Made are those that have failed: neither one that a crash cut off, nor one that was given back.
      attempt: job.attemptsMade + 1,
      signal,
      progress: value => {
        job.updateProgress(value as number).catch(err => {
          this.#logOf(job).warn({ err, task: loggedTask(job) }, `${this.name}: the progress of a background task could not be stored`)
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
    const state = stateOf(job, await job.getState())
    // Removed between the two commands.
    return state === undefined ? null : taskInfo(job, state)
  }

  async cancel (id: string): Promise<boolean> {
    const job = await this.#queue.getJob(id)
    if (job === undefined || job.finishedOn !== undefined) return false
    // One that has ended would be removed, too.
    if (stateOf(job, await job.getState()) === 'pending' && await this.#remove(job)) return true
    return this.#worker?.cancelJob(id) === true
  }

  /** Takes out a job that waits. Resolves with `false` if a worker has begun it meanwhile. */
  async #remove (job: TaskJob): Promise<boolean> {
    if (this.#postgres) {
      const removed = await runOnTables(this.#queue.getBackend(), REMOVE, [this.#queue.name, job.id])
      if (removed !== null) return removed.length === 1
    }
    return job.remove().then(() => true, () => false)
  }

  async list (limit: number): Promise<TaskList> {
    const [{ active = 0, waiting = 0, delayed = 0, failed = 0 }, ...lists] = await Promise.all([
      this.#queue.getJobCounts('active', 'waiting', 'delayed', 'failed'),
      this.#queue.getActive(0, limit - 1),
      this.#queue.getWaiting(0, limit - 1),
      this.#queue.getDelayed(0, limit - 1),
      this.#queue.getFailed(0, limit - 1)
    ])
    const tasks = LISTED.flatMap((state, index) => lists[index]!.filter(isThere).map(job => listedTask(job, state)))
    return {
      counts: { running: active, waiting, delayed, failed },
      // Whom somebody has called off is no failure, though it is kept as one.
      tasks: tasks.filter(({ error }) => error?.message !== CANCELLED)
    }
  }

  async retry (id: string): Promise<boolean> {
    const job = await this.#queue.getJob(id)
    if (job === undefined || job.failedReason === CANCELLED) return false
    try {
      await job.retry('failed', { resetAttemptsMade: true })
      return true
    } catch {
      // It has not failed, or somebody else was first.
      return false
    }
  }

  async close (ms: number): Promise<void> {
    // A server that does not answer would keep both waiting, and the process alive.
    const clearDeadline = setDeadline(ms, () => this.#disconnect())
    this.#closed = true
    this.#pruning?.stop()
    try {
      await this.#worker?.close()
      await this.#queue?.close()
    } finally {
      clearDeadline()
      // Where the server is away, and cannot be told, the driver would go on looking for it.
      this.#disconnect()
    }
  }

  #disconnect (): void {
    const connection = this.#options.connection
    // None of them is waited for, and none that fails matters.
    Promise.allSettled([
      // A client that waits to look for its server again never says that it has ended (ioredis 6.0), so the worker's own
      // close waits for ever, and its timer that renews locks keeps the process alive.
      (this.#worker as unknown as null | { lockManager: { close (): Promise<void> } })?.lockManager.close(),
      this.#worker?.getBackend().disconnectBlocking(false),
      // A worker uses a ready cluster as the queue does.
      isCluster(connection) ? null : this.#worker?.disconnect(),
      isClient(connection) || isPool(connection) ? null : this.#queue?.disconnect()
    ])
    this.#postgresConnections.destroy()
  }
}

/** One that has been removed since its id was read is a hole in the list. */
function isThere (job: TaskJob | undefined): job is TaskJob {
  return job !== undefined
}
