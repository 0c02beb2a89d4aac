import { resolve } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, ListedTask, ListName, LogOf, ScheduleState, StoredSchedule, StoredTask, TaskBackend, TaskList, TaskRecord, ThreadRoom } from '../../../types/backend'
import type { TaskInfo } from '../../../types/task'
import { checkOptions, type Checks, count, period, nonEmptyText } from '../../shared/check-options'
import { AT_ONCE, mapInSlices } from '../../shared/slices'
import { Intake } from '../intake'
import { RETAIN, type Retention, retention } from '../retention'
import { Connection } from './connection'
import { Insertion } from './insertion'
import { dueIn, TaskTable } from './table'
import { checkClient, fileOf } from './transaction'
import { ScheduleTable, SqliteSchedules, statesOf } from './schedules'
import { SqliteWorker } from './worker'

export type { Retention } from '../retention'

/** The options of {@link sqlite}. */
export interface SqliteOptions {
  /**
   * The file with the tasks, on a disk of this machine. It is created if there is none; its folder is not. All
   * processes with the same file share its tasks. `':memory:'` is for tests: it ends with the application.
   */
  file: string
  /**
   * Milliseconds after which a worker that gives no sign of life loses its tasks to others.
   * @default 30_000
   */
  lockDuration?: number
  /**
   * How many workers a task may take down before it has failed. Such ends are not attempts.
   * @default 5
   */
  maxCrashes?: number
  /**
   * Milliseconds between two checks for tasks of other processes. Tasks of this process are seen at once.
   * @default 500
   */
  pollInterval?: number
  /**
   * Milliseconds to wait for another process that writes. Less than half of the
   * plugin's `storeTimeout`, since a request may wait for the write of others and then for its own.
   * @default 2_000
   */
  busyTimeout?: number
  /**
   * How long settled tasks can be found: seconds, and how many. Cancelled ones are kept as long as failed ones.
   * @default { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }
   */
  retain?: { completed?: Retention, failed?: Retention }
}

const DEFAULTS = { lockDuration: 30_000, maxCrashes: 5, pollInterval: 500, busyTimeout: 2_000, retain: {} }

const CHECKS: Checks<SqliteOptions> = {
  file: ["the path of a file, or ':memory:'", nonEmptyText[1]],
  lockDuration: period,
  maxCrashes: count,
  pollInterval: period,
  busyTimeout: period,
  retain: retention
}

/** The most tasks that are read to find one that needs no thread: more would hold the main thread. */
const LOOK_AHEAD = 100

/**
 * Keeps tasks in a file of SQLite, for the processes of one machine. Needs Node 22.13 or later.
 * @throws FST_BGT_INVALID_OPTION, FST_BGT_UNKNOWN_OPTION
 */
export function sqlite (options: SqliteOptions): TaskBackend {
  return new SqliteBackend(options)
}

class SqliteBackend implements TaskBackend {
  readonly name = 'SQLite'
  /** SQLite takes one writer at a time. */
  readonly writes = 1
  readonly #options: Required<SqliteOptions>
  #log!: FastifyBaseLogger
  #logOf!: LogOf
  #connection: Connection | null = null
  #table!: TaskTable
  /** The path of the file, as SQLite has resolved it. */
  #path!: string
  #worker: SqliteWorker | null = null
  #scheduleTable!: ScheduleTable
  #schedules: SqliteSchedules | null = null
  /** The connection of the application that uses this backend; `null` after its close. */
  #opening: Promise<Connection> | null = null

  constructor (options: SqliteOptions) {
    this.#options = checkOptions(options ?? {}, DEFAULTS, CHECKS, { required: ['file'] })
  }

  async start (log: FastifyBaseLogger, logOf: LogOf): Promise<void> {
    const { file, busyTimeout } = this.#options
    this.#log = log
    this.#logOf = logOf
    const opening = this.#opening = Connection.open(this.name, file === ':memory:' ? file : resolve(file), busyTimeout)
    const connection = await opening
    // Closed meanwhile: the application did not wait so long.
    if (this.#opening !== opening) return connection.close()
    this.#connection = connection
    this.#table = new TaskTable(connection)
    this.#scheduleTable = new ScheduleTable(connection, this.#table)
    this.#path = fileOf(connection)
  }

  /** Stores all batches in one transaction, unless one fails: then each has its own, so that only this one is refused. */
  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    const now = Date.now()
    const ends = await Promise.allSettled(batches.map(tasks => this.#storeBatch(tasks, now)))
    if (ends.every(end => end.status === 'rejected')) throw ends[0]!.reason
    this.#worker?.wake()
    return ends.map(end => end.status === 'fulfilled' ? end.value : end.reason as Error)
  }

  async #storeBatch (tasks: StoredTask[], now: number): Promise<string[]> {
    const row = (task: StoredTask) => ({ task, text: JSON.stringify(task), due: dueIn(task.delay, now) })
    const insert = ({ task, text, due }: ReturnType<typeof row>) => this.#table.insert(task, text, due, now)
    if (tasks.length > AT_ONCE) return this.#open.writeMany(await mapInSlices(tasks, row), insert)
    const rows = tasks.map(row)
    return this.#open.write(() => rows.map(insert))
  }

  storeInTransaction (client: unknown, task: StoredTask): string {
    const connection = checkClient(client, this.#path)
    const now = Date.now()
    return new Insertion(sql => connection.prepare(sql)).insert(task, JSON.stringify(task), dueIn(task.delay, now), now)
  }

  async work (concurrency: number, deliver: Deliver, threads: ThreadRoom): Promise<void> {
    const { file, lockDuration, maxCrashes, pollInterval, retain } = this.#options
    const intake = new Intake(concurrency, threads)
    const lookAhead = threads.names.size === 0 ? 0 : LOOK_AHEAD
    const options = { intake, lookAhead, lockDuration, maxCrashes, pollInterval: file === ':memory:' ? 0 : pollInterval, retain: { ...RETAIN, ...retain } }
    this.#worker = new SqliteWorker(this.#open, this.#table, options, this.#log, this.#logOf, deliver)
    this.#worker.start()
  }

  async schedule (schedules: readonly StoredSchedule[], tasks: readonly string[]): Promise<void> {
    this.#schedules = new SqliteSchedules(this.#open, this.#scheduleTable, schedules, this.#log, () => this.#worker!.wake())
    await this.#schedules.start(tasks)
  }

  async schedules (ids: readonly string[]): Promise<ScheduleState[]> {
    return statesOf(await this.#open.read(() => this.#scheduleTable.all()), ids)
  }

  async pause (): Promise<void> {
    this.#schedules?.pause()
    this.#worker?.pause()
  }

  async resume (): Promise<void> {
    this.#schedules?.resume()
    this.#worker?.resume()
  }

  async find (id: string): Promise<TaskInfo | null> {
    return this.#open.read(() => this.#table.find(id))
  }

  async cancel (id: string): Promise<boolean> {
    // A task that still waits here may be handed out in the same transaction.
    return this.#tellWorker(id) || await this.#open.write(() => this.#table.cancel(id, Date.now())) || this.#tellWorker(id)
  }

  #tellWorker (id: string): boolean {
    return this.#worker?.cancel(id) ?? false
  }

  async list (limit: number): Promise<TaskList> {
    return this.#open.read(() => this.#table.list(Date.now(), limit))
  }

  async page (list: ListName, offset: number, limit: number, newestFirst: boolean): Promise<ListedTask[]> {
    return this.#open.read(() => this.#table.page(list, Date.now(), offset, limit, newestFirst))
  }

  async read (id: string): Promise<TaskRecord | null> {
    return this.#open.read(() => this.#table.read(id, Date.now()))
  }

  async remove (id: string): Promise<boolean> {
    return this.#open.write(() => this.#table.discard(id))
  }

  async retry (id: string): Promise<boolean> {
    const done = await this.#open.write(() => this.#table.retry(id, Date.now()))
    this.#worker?.wake()
    return done
  }

  async close (ms: number): Promise<void> {
    this.#opening = null
    this.#schedules?.pause()
    this.#schedules = null
    await this.#worker?.close(ms)
    this.#worker = null
    this.#connection?.close()
  }

  /** The opened parts: only `close` is called before `start` has resolved. */
  get #open (): Connection {
    return this.#connection as Connection
  }
}
