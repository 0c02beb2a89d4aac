import { resolve } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { checkOptions, count, period, text, type Checks } from '../check-options'
import type { LogOf } from '../request-log'
import type { TaskInfo } from '../task-index'
import type { Deliver, StoredTask, TaskBackend, TaskList } from './backend'
import { RETAIN, retention, type Retention } from './retention'
import { Connection } from './sqlite-connection'
import { dueIn, TaskTable } from './sqlite-tasks'
import { SqliteWorker } from './sqlite-worker'

export type { Retention } from './retention'

/** The options of {@link sqlite}. */
export interface SqliteOptions {
  /**
   * Where the tasks are kept: a file, on a disk of this machine. It is made if there is none; its folder is not. All
   * processes with the same file share its tasks. `':memory:'` is for tests: it ends with the application.
   */
  file: string
  /**
   * Milliseconds after which a worker that gives no sign of life loses its tasks to others.
   * @default 30_000
   */
  lockDuration?: number
  /**
   * How many workers a task may take down with it before it has failed. Such ends are not attempts.
   * @default 5
   */
  maxCrashes?: number
  /**
   * Milliseconds between two looks for what other processes have stored. What this one stores is seen at once.
   * @default 500
   */
  pollInterval?: number
  /**
   * Milliseconds that another process, while it writes, is waited for. It should be less than half of the
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
  file: ["the path of a file, or ':memory:'", text[1]],
  lockDuration: period,
  maxCrashes: count,
  pollInterval: period,
  busyTimeout: period,
  retain: retention
}

/**
 * Keeps tasks in a file of SQLite, for the processes of one machine. Needs Node 22.13 or later.
 * @throws FST_BGT_INVALID_OPTION, FST_BGT_UNKNOWN_OPTION
 */
export function sqlite (options: SqliteOptions): TaskBackend {
  return new SqliteBackend(options)
}

class SqliteBackend implements TaskBackend {
  readonly name = 'SQLite'
  /** One writes at a time. */
  readonly writes = 1
  readonly #options: Required<SqliteOptions>
  #log!: FastifyBaseLogger
  #logOf!: LogOf
  #connection: Connection | null = null
  #table!: TaskTable
  #worker: SqliteWorker | null = null
  /** What the application that uses it has begun to open; `null` after its close. */
  #opening: Promise<Connection> | null = null

  constructor (options: SqliteOptions) {
    this.#options = checkOptions({ ...options, file: options?.file }, DEFAULTS, CHECKS)
  }

  async start (log: FastifyBaseLogger, logOf: LogOf): Promise<void> {
    const { file, busyTimeout } = this.#options
    this.#log = log
    this.#logOf = logOf
    const opening = this.#opening = Connection.open(this.name, file === ':memory:' ? file : resolve(file), busyTimeout)
    const connection = await opening
    // Closed meanwhile, by an application that has not waited so long.
    if (this.#opening !== opening) return connection.close()
    this.#connection = connection
    this.#table = new TaskTable(connection)
  }

  /** All in one transaction, unless one of them fails: that one must not take the others with it. */
  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    const now = Date.now()
    const ends = await Promise.allSettled(batches.map(tasks => this.#storeBatch(tasks, now)))
    if (ends.every(end => end.status === 'rejected')) throw ends[0]!.reason
    this.#worker?.wake()
    return ends.map(end => end.status === 'fulfilled' ? end.value : end.reason as Error)
  }

  async #storeBatch (tasks: StoredTask[], now: number): Promise<string[]> {
    const rows = tasks.map(task => ({ task, text: JSON.stringify(task), due: dueIn(task.delay, now) }))
    return this.#open.write(() => rows.map(({ task, text, due }) => this.#table.insert(task, text, due)))
  }

  async work (concurrency: number, deliver: Deliver): Promise<void> {
    const { file, lockDuration, maxCrashes, pollInterval, retain } = this.#options
    const options = { concurrency, lockDuration, maxCrashes, pollInterval: file === ':memory:' ? 0 : pollInterval, retain: { ...RETAIN, ...retain } }
    this.#worker = new SqliteWorker(this.#open, this.#table, options, this.#log, this.#logOf, deliver)
    this.#worker.start()
  }

  async pause (): Promise<void> {
    this.#worker?.pause()
  }

  async find (id: string): Promise<TaskInfo | null> {
    return this.#open.read(() => this.#table.find(id))
  }

  async cancel (id: string): Promise<boolean> {
    // What has not been handed out when this is asked may be so in the same transaction.
    return this.#tellWorker(id) || await this.#open.write(() => this.#table.cancel(id, Date.now())) || this.#tellWorker(id)
  }

  #tellWorker (id: string): boolean {
    return this.#worker?.cancel(id) ?? false
  }

  async list (limit: number): Promise<TaskList> {
    return this.#open.read(() => this.#table.list(Date.now(), limit))
  }

  async retry (id: string): Promise<boolean> {
    const done = await this.#open.write(() => this.#table.retry(id, Date.now()))
    this.#worker?.wake()
    return done
  }

  async close (ms: number): Promise<void> {
    this.#opening = null
    await this.#worker?.close(ms)
    this.#worker = null
    this.#connection?.close()
  }

  /** Nothing but `close` is called before `start` has resolved. */
  get #open (): Connection {
    return this.#connection as Connection
  }
}
