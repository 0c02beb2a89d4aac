import type { BackendFactory, JobJson, PostgresConnectionOptions, PostgresQueueBackend, Processor, Queue, Worker } from 'bullmq'
import { isPool } from '../connection'
import type { JobWriter } from '../job-writer'
import type { JobData, TaskJob } from '../jobs'
import type { ResolvedOptions } from '../options'
import { setSchema } from '../private'
import type { ScheduleRecords } from '../schedule-record'
import type { BullMQ, CommonWorkerOptions, Server } from '../server'
import { isAboutData } from './batches'
import { ServerClock } from './clock'
import { ownConnections, Sockets, type Timeouts } from './connection'
import { removeFailed, retryFailed } from './failed'
import { Heartbeat } from './heartbeat'
import { PlainPostgresWriter } from './plain-writer'
import { type PoolSource, runOnTables, TaskPool } from './pool'
import { Pruning } from './pruning'
import { PostgresSchedules } from './schedules'
import { addInTransaction } from './transaction'

/**
 * A statement that stores is waited for so many times as long as its request waits: a late answer still tells of tasks that were
 * stored and must be cancelled.
 */
const LATE_ANSWER = 2

/** Transactions that store tasks at the same time: each commits to the disk. */
const WRITES = 2

/**
 * BullMQ's own `remove` takes a job from a worker that was just taking it: it looks for a worker's lock first, and does not hold the row
 * meanwhile (6.7).
 */
const REMOVE_WAITING = `
  WITH pending AS (SELECT id FROM job WHERE queue = $1 AND id = $2 AND state IN ('waiting', 'delayed') FOR UPDATE)
  SELECT remove($1, id, false) FROM pending`

const HAS_SCHEMA = 'SELECT $1 = ANY(current_schemas(false)) AS found'

/** BullMQ on Postgres. */
export class PostgresServer implements Server {
  readonly name = 'BullMQ on Postgres'
  readonly packages = 'bullmq pg'
  readonly writes = WRITES
  readonly isJsonb = true
  readonly #options: ResolvedOptions
  readonly #trouble: (error: Error) => void
  readonly #sockets = new Sockets()
  #bullmq!: BullMQ
  #pg!: typeof import('pg')
  #clock!: ServerClock
  #queuePool: TaskPool | null = null
  #workerPool: TaskPool | null = null
  #pruning: Pruning | null = null
  #heartbeat: Heartbeat | null = null
  #isStopped = false

  /** @param trouble told of an error for which nobody waits */
  constructor (options: ResolvedOptions, trouble: (error: Error) => void) {
    this.#options = options
    this.#trouble = trouble
  }

  get pool (): TaskPool {
    return this.#queuePool as TaskPool
  }

  load (): BullMQ {
    // A bundler sees literal names in calls of `require`.
    this.#pg = require('pg')
    this.#bullmq = require('bullmq')
    return this.#bullmq
  }

  get #schema (): string {
    return this.#options.prefix ?? this.#bullmq.DEFAULT_SCHEMA
  }

  async openQueue (silenceMs: number): Promise<Queue<JobData>> {
    this.#isStopped = false
    this.#workerPool = null
    this.#clock = new ServerClock(() => this.pool.serverTime())
    const pool = this.#queuePool = this.#openPool({ connectMs: silenceMs, queryMs: LATE_ANSWER * silenceMs })
    // BullMQ leaves the tables of a ready pool to its owner.
    const client = await pool.borrow()
    try {
      await this.#bullmq.runMigrations(client, this.#schema)
    } finally {
      client.release()
    }
    const { Queue } = this.#bullmq.withBackend(this.#factory())
    return new Queue(this.#options.queue, { connection: pool }).on('error', this.#trouble) as unknown as Queue<JobData>
  }

  #openPool (timeouts: Timeouts): TaskPool {
    const { connection } = this.#options
    const connections = isPool(connection)
      ? { pool: connection as PoolSource['pool'], isOwn: false, newClient: null }
      : ownConnections(this.#pg, connection, this.#bullmq.quoteSchemaName(this.#schema), timeouts, this.#sockets)
    return new TaskPool({ ...connections, clock: this.#clock, readOnly: error => this.#lost(error) })
  }

  /** One connection does not answer, or leads to a server that is not the primary any more: nor will the others be of use. */
  #lost (error: Error): void {
    if (this.#isStopped) return
    this.#trouble(error)
    this.#sockets.destroy()
  }

  #factory (): BackendFactory<PostgresQueueBackend, PostgresConnectionOptions> {
    return (...args) => {
      const backend = this.#bullmq.createPostgresBackend(...args)
      setSchema(backend, this.#schema)
      return backend
    }
  }

  /** Rejects where the pool has another search path, or a proxy such as pgbouncer has taken away the one that a connection asks for. */
  async check (): Promise<void> {
    const { rows: [row] } = await this.pool.query<{ found: boolean }>(HAS_SCHEMA, [this.#schema])
    if (row!.found) return
    throw new Error(`a connection whose search path has no schema '${this.#schema}': set it for the pool, or for the role (ALTER ROLE … SET search_path) where a proxy such as pgbouncer ignores what connections ask for`)
  }

  plainWriter (queue: Queue<JobData>): JobWriter {
    return new PlainPostgresWriter(queue, this.pool, this.#trouble)
  }

  addInTransaction (queue: Queue<JobData>, client: unknown, job: JobJson): Promise<string> {
    return addInTransaction(client, this.#bullmq.quoteSchemaName(this.#schema), queue.name, job)
  }

  schedules (queue: Queue<JobData>): ScheduleRecords {
    return new PostgresSchedules(queue.name, this.pool, this.#bullmq.quoteSchemaName(this.#schema))
  }

  openWorker (process: Processor<JobData>, options: CommonWorkerOptions, silenceMs: number): Worker<JobData> {
    const pool = this.#workerPool = this.#openPool({ connectMs: silenceMs, queryMs: silenceMs })
    const { Worker } = this.#bullmq.withBackend(this.#factory())
    return new Worker(this.#options.queue, process as Processor, { connection: pool, ...options }) as unknown as Worker<JobData>
  }

  attend (queue: Queue<JobData>, worker: Worker<JobData>): void {
    const { connection, retain } = this.#options
    this.#pruning = new Pruning(queue, this.pool, retain, this.#trouble)
    if (!isPool(connection)) this.#heartbeat = new Heartbeat(worker, error => this.#lost(error))
  }

  isAboutData (error: unknown): boolean {
    return isAboutData(error)
  }

  /** Postgres has checked what BullMQ reads. */
  async repair (): Promise<[]> {
    return []
  }

  async removeWaiting (queue: Queue<JobData>, job: TaskJob): Promise<boolean> {
    const removed = await runOnTables(this.pool, REMOVE_WAITING, [queue.name, job.id])
    return removed === null ? job.remove().then(() => true, () => false) : removed.length === 1
  }

  removeFailed (queue: Queue<JobData>, id: string): Promise<boolean> {
    return removeFailed(queue, this.pool, id)
  }

  retry (queue: Queue<JobData>, job: TaskJob): Promise<boolean> {
    return retryFailed(queue, this.pool, job)
  }

  stop (): void {
    this.#isStopped = true
    this.#pruning?.stop()
    this.#heartbeat?.stop()
  }

  async end (): Promise<void> {
    await Promise.all([this.#queuePool?.end(), this.#workerPool?.end()])
  }

  disconnect (queue: Queue<JobData> | null, worker: Worker<JobData> | null): Promise<unknown> {
    this.#sockets.destroy()
    return Promise.allSettled([worker?.getBackend().disconnectBlocking(false), worker?.disconnect(), isPool(this.#options.connection) ? null : queue?.disconnect()])
  }
}
