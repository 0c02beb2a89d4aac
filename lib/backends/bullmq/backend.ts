import type { Queue } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, ListedTask, ListName, LogOf, ScheduleState, StoredSchedule, StoredTask, TaskBackend, TaskList, TaskRecord, ThreadRoom } from '../../../types/backend'
import type { TaskInfo } from '../../../types/task'
import { setDeadline } from '../../shared/deadline'
import { FST_BGT_MISSING_PACKAGE } from '../../shared/errors'
import { AT_ONCE, mapInSlices } from '../../shared/slices'
import { Secrets } from '../secrets'
import { chooseWriter } from './choose-writer'
import { isPostgres, type Silence, silenceOf } from './connection'
import type { JobWriter } from './job-writer'
import { CANCELLED, type JobData, LISTED, listedTask, listOf, newJob, stateOf, type TaskJob, taskInfo, taskRecord } from './jobs'
import type { ResolvedOptions } from './options'
import { PostgresServer } from './postgres/server'
import { versionOf } from './private'
import { RedisServer } from './redis/server'
import { isUnreadable } from './redis/unreadable'
import { Reports } from './reports'
import { Schedules, statesOfSchedules } from './schedules'
import type { BullMQ, Server } from './server'
import { TaskWorker } from './worker'

const NO_TRANSACTION = 'Redis takes no part in the transaction of a database'

/** Keeps tasks as the jobs of one queue. Made by the user; `start` opens the queue, `close` ends all connections. */
export class BullmqBackend implements TaskBackend {
  readonly name: string
  readonly writes: number
  readonly storeInTransaction?: (client: unknown, task: StoredTask) => Promise<string>
  readonly refuses = { transaction: NO_TRANSACTION }
  readonly #options: ResolvedOptions
  readonly #server: Server
  readonly #reports: Reports
  #bullmq!: BullMQ
  /** The error of packages that could not be loaded, for the start of the application. */
  #missing: Error | null = null
  #queue!: Queue<JobData>
  #writer!: JobWriter
  #worker: TaskWorker | null = null
  #schedules: Schedules | null = null
  #silence!: Silence
  #isClosed!: boolean

  constructor (options: ResolvedOptions) {
    this.#options = options
    const ServerOf = isPostgres(options.connection) ? PostgresServer : RedisServer
    this.#server = new ServerOf(options, error => this.#reports.trouble(error))
    this.#reports = new Reports(this.#server.name, new Secrets(options.connection))
    this.name = this.#server.name
    this.writes = this.#server.writes
    if (this.#server.addInTransaction !== undefined) {
      this.storeInTransaction = (client, task) => this.#server.addInTransaction!(this.#queue, client, newJob(task, Date.now()))
    }
    this.#load()
  }

  /**
   * Loads the packages here, among the application's own modules, and not when it starts: a garbage collection on the way makes V8 forget how
   * it has optimized `process.nextTick`, for 6 to 12 % of a server's time (Node 20).
   */
  #load (): void {
    try {
      this.#bullmq = this.#server.load()
    } catch (cause) {
      this.#missing = (cause as { code?: unknown }).code === 'MODULE_NOT_FOUND'
        ? new FST_BGT_MISSING_PACKAGE(`The backend '${this.name}'`, this.#server.packages, { cause })
        : cause as Error
    }
  }

  async start (log: FastifyBaseLogger, logOf: LogOf, timeout: number): Promise<void> {
    this.#reports.begin(log, logOf)
    this.#silence = silenceOf(timeout)
    this.#isClosed = false
    if (this.#missing !== null) throw this.#missing
    const queue = this.#queue = await this.#server.openQueue(this.#silence.storing)
    await queue.waitUntilReady()
    await this.#server.check(queue)
    this.#writer = await chooseWriter(this.#options.writer, this.#server.plainWriter(queue), { queue, pool: this.#server.pool, failed: error => this.#reports.trouble(error) })
    this.#reports.writer(this.#writer.kind, versionOf(queue))
  }

  redact (error: unknown): void {
    this.#reports.redact(error)
  }

  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    const now = Date.now()
    const [first] = batches
    // A batch of so many tasks comes alone.
    if (first !== undefined && first.length > AT_ONCE) return this.#writer.add([await mapInSlices(first, task => newJob(task, now))])
    return this.#writer.add(batches.map(tasks => tasks.map(task => newJob(task, now))))
  }

  async work (concurrency: number, deliver: Deliver, threads: ThreadRoom): Promise<void> {
    const context = { bullmq: this.#bullmq, server: this.#server, queue: this.#queue, options: this.#options, reports: this.#reports }
    this.#worker = new TaskWorker(context, this.#silence.working, concurrency, deliver, threads)
    await this.#worker.ready()
    // A start that ran out of time goes on until its server answers.
    if (!this.#isClosed) this.#worker.attend()
  }

  async pause (): Promise<void> {
    this.#schedules?.pause()
    await this.#worker?.pause()
  }

  async resume (): Promise<void> {
    await this.#worker?.resume()
    this.#schedules?.resume()
  }

  /** A job that BullMQ cannot read is shown as an empty one: only its id is known. */
  async #job (id: string): Promise<TaskJob | undefined> {
    try {
      return await this.#queue.getJob(id)
    } catch (error) {
      if (!isUnreadable(error)) throw error
      return new this.#bullmq.Job<JobData>(this.#queue, '', {}, {}, id)
    }
  }

  /** A part of one list, whether its jobs can be read or not. */
  async #jobs (list: ListName, offset: number, limit: number, newestFirst: boolean): Promise<Array<TaskJob | undefined>> {
    const type = list === 'running' ? 'active' : list
    const last = offset + limit - 1
    try {
      return await this.#queue.getJobs([type], offset, last, !newestFirst)
    } catch (error) {
      if (!isUnreadable(error)) throw error
      const ids = await this.#queue.getRanges([type], offset, last, !newestFirst)
      return Promise.all(ids.map(id => this.#job(id)))
    }
  }

  async find (id: string): Promise<TaskInfo | null> {
    const job = await this.#job(id)
    if (job === undefined) return null
    const state = stateOf(job, await job.getState())
    // Removed between the two commands.
    return state === undefined ? null : taskInfo(job, state)
  }

  async cancel (id: string): Promise<boolean> {
    const job = await this.#job(id)
    if (job === undefined || job.finishedOn !== undefined) return false
    // A job that has settled would be removed, too.
    if (stateOf(job, await job.getState()) === 'pending' && await this.#server.removeWaiting(this.#queue, job)) return true
    return this.#worker?.cancel(id) === true
  }

  async list (limit: number): Promise<TaskList> {
    const [{ active, waiting, delayed, failed, completed }, ...lists] = await Promise.all([
      this.#queue.getJobCounts('active', 'waiting', 'delayed', 'failed', 'completed'),
      ...LISTED.map(list => this.#jobs(list, 0, limit, list === 'failed'))
    ])
    const tasks = LISTED.flatMap((state, index) => lists[index]!.filter(isThere).map(job => listedTask(job, state)))
    return {
      counts: { running: active, waiting, delayed, failed, completed },
      // BullMQ keeps cancelled jobs as failed; leave them out.
      tasks: tasks.filter(({ state }) => state !== 'cancelled')
    }
  }

  async page (list: ListName, offset: number, limit: number, newestFirst: boolean): Promise<ListedTask[]> {
    const jobs = await this.#jobs(list, offset, limit, newestFirst)
    return jobs.filter(isThere).map(job => listedTask(job, list))
  }

  async read (id: string): Promise<TaskRecord | null> {
    const job = await this.#job(id)
    if (job === undefined) return null
    const list = listOf(job, await job.getState())
    return list === undefined ? null : taskRecord(job, list)
  }

  async remove (id: string): Promise<boolean> {
    return this.#server.removeFailed(this.#queue, id)
  }

  async retry (id: string): Promise<boolean> {
    const job = await this.#queue.getJob(id)
    return job !== undefined && job.failedReason !== CANCELLED && this.#server.retry(this.#queue, job)
  }

  async schedule (schedules: readonly StoredSchedule[], tasks: readonly string[]): Promise<void> {
    const store = async (task: StoredTask): Promise<string> => {
      const [stored] = await this.store([[task]])
      if (stored instanceof Error) throw stored
      return stored![0]!
    }
    this.#schedules = new Schedules({ queue: this.#queue, records: this.#server.schedules(this.#queue), reports: this.#reports, store })
    await this.#schedules.begin(schedules, tasks)
  }

  async schedules (ids: readonly string[]): Promise<ScheduleState[]> {
    return statesOfSchedules(this.#server.schedules(this.#queue), ids)
  }

  async close (ms: number): Promise<void> {
    let onDeadline!: () => void
    const deadline = new Promise<void>(resolve => { onDeadline = resolve })
    // A server that does not answer would keep every step waiting, and the process alive.
    const clearDeadline = setDeadline(ms, () => {
      this.#disconnect()
      onDeadline()
    })
    this.#isClosed = true
    this.#server.stop()
    this.#schedules?.pause()
    try {
      await Promise.race([this.#schedules?.idle(), deadline])
      await this.#worker?.close()
      await this.#queue?.close()
      await this.#server.end()
    } finally {
      clearDeadline()
      // The drivers would go on looking for a server that is away.
      this.#disconnect()
    }
  }

  /** Not waited for; no error matters any more. */
  #disconnect (): void {
    this.#worker?.disconnect()
    this.#server.disconnect(this.#queue ?? null, null)
  }
}

/** A job that was removed since its id was read is a hole in the list. */
function isThere (job: TaskJob | undefined): job is TaskJob {
  return job !== undefined
}
