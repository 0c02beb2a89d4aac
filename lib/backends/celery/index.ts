import type { FastifyBaseLogger } from 'fastify'
import { checkOptions, count, period, textUpTo, type Checks } from '../../shared/check-options'
import { FST_BGT_MISSING_PACKAGE } from '../../shared/errors'
import { reasonOf, withheld } from '../../shared/show'
import { AT_ONCE } from '../../shared/slices'
import type { Deliver, LogOf, StoredTask, TaskBackend, TaskDefaults, TaskInfo, ThreadRoom } from '../../../types/backend'
import { Intake } from '../intake'
import { Secrets } from '../secrets'
import { Troubles } from '../troubles'
import type { BrokerOptions } from './broker'
import { messageOf } from './message'
import { Publisher } from './publisher'
import { checkConnection, Results } from './results'
import { CeleryWorker } from './worker'

/** The options of {@link celery}. */
export interface CeleryOptions {
  /**
   * RabbitMQ: `amqp://…` or `amqps://…`, as Celery's `broker_url`; or options of amqplib's `connect`, with `hostname`, `username` and so
   * on. Of a list, each attempt to connect takes the next one.
   */
  broker: string | object | ReadonlyArray<string | object>
  /**
   * The queue that tasks are added to, and that this process takes its tasks from; at most 255 bytes in UTF-8. One that exists is
   * used as it is, also a quorum queue; else it is declared as Celery declares it, durable and without arguments.
   * @default 'celery'
   */
  queue?: string
  /**
   * Names of tasks that are added to other queues: Celery's `task_routes`. A name that ends with `*` stands for all that begin so;
   * the first one that fits counts.
   * @default {}
   */
  routes?: Readonly<Record<string, string>>
  /**
   * Redis, as Celery's `result_backend`: `redis://…` or `rediss://…`, options of ioredis, or a ready client of it, which stays the
   * caller's to close. Without it no outcome is kept, and `find` knows only what is in this process.
   */
  results?: string | object
  /**
   * Seconds for which results are kept: Celery's `result_expires`.
   * @default 86_400
   */
  resultExpires?: number
  /**
   * How many workers a task may take down with it before it has failed. Such ends are not attempts.
   * @default 5
   */
  maxCrashes?: number
  /** Options of the socket to RabbitMQ, such as `ca`, `cert` and `key`, and amqplib's `credentials`. */
  socket?: object
}

const DEFAULTS = { queue: 'celery', routes: {}, resultExpires: 86_400, maxCrashes: 5, socket: {} }

const isBroker = (value: unknown): boolean => typeof value === 'string' ? /^amqps?:\/\//.test(value) : typeof value === 'object' && value !== null && !(value instanceof URL)

/** A short string of AMQP. */
const QUEUE = textUpTo(255)

const CHECKS: Checks<CeleryOptions> = {
  broker: ["'amqp://…', 'amqps://…', options of amqplib, or a list of these", value => Array.isArray(value) ? value.length !== 0 && value.every(isBroker) : isBroker(value), withheld],
  queue: QUEUE,
  routes: [`an object whose values are each ${QUEUE[0]}`, value => typeof value === 'object' && value !== null && Object.values(value).every(QUEUE[1])],
  results: ["'redis://…', 'rediss://…', options or a client of ioredis", checkConnection, withheld],
  resultExpires: ['a number of seconds from 1 on', value => period[1](value * 1_000)],
  maxCrashes: count,
  socket: ['an object', value => typeof value === 'object' && value !== null]
}

/** A server may be slow: a connection is not given up sooner, nor much later, whatever `storeTimeout` is. */
const SILENCE_MS = { least: 1_000, most: 20_000 }

/**
 * Keeps tasks in RabbitMQ, as messages of Celery's protocol: Celery workers can run them, and this process those of Celery.
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION
 */
export function celery (options: CeleryOptions): TaskBackend {
  return new CeleryBackend(options)
}

class CeleryBackend implements TaskBackend {
  readonly name = 'Celery on RabbitMQ'
  /** RabbitMQ confirms each message by itself. */
  readonly writes = Infinity
  readonly refuses = {
    dedupe: 'RabbitMQ cannot tell whether a queue has a task already',
    transaction: 'RabbitMQ takes no part in the transaction of a database',
    schedules: 'Celery has a scheduler of its own: let celery beat send the task'
  }

  readonly keepsWaiting = 'it waits in RabbitMQ, which takes no message out of the middle of a queue, or it has begun'
  readonly #options: CeleryOptions & typeof DEFAULTS
  readonly #routes: ReadonlyArray<[string, string]>
  #amqplib!: typeof import('amqplib')
  #ioredis: typeof import('ioredis') | null = null
  /** Told when the application starts. */
  #missing: Error | null = null
  #log!: FastifyBaseLogger
  #logOf!: LogOf
  #silence = 0
  #definitions: ReadonlyMap<string, TaskDefaults> = new Map()
  #publisher: Publisher | null = null
  #results: Results | null = null
  #worker: CeleryWorker | null = null
  readonly #secrets: Secrets
  readonly #troubles = new Troubles()
  #closed = false

  constructor (options: CeleryOptions) {
    this.#options = checkOptions(options ?? {}, DEFAULTS, CHECKS, { required: ['broker'] })
    const { broker, routes, results } = this.#options
    this.#routes = Object.entries(routes)
    this.#secrets = new Secrets([broker, results])
    this.#load()
  }

  /** Here, among the application's own modules, as the other backends do. */
  #load (): void {
    const { results } = this.#options
    try {
      // Literal names in calls of `require` are what a bundler sees.
      this.#amqplib = require('amqplib')
      if (results !== undefined) this.#ioredis = require('ioredis')
    } catch (cause) {
      this.#missing = (cause as { code?: unknown }).code === 'MODULE_NOT_FOUND'
        ? new FST_BGT_MISSING_PACKAGE(`The backend '${this.name}'`, results === undefined ? 'amqplib' : 'amqplib ioredis', { cause })
        : cause as Error
    }
  }

  async start (log: FastifyBaseLogger, logOf: LogOf, timeout: number, definitions: ReadonlyMap<string, TaskDefaults>): Promise<void> {
    this.#log = log
    this.#logOf = logOf
    this.#definitions = definitions
    this.#closed = false
    if (this.#missing !== null) throw this.#missing
    const { queue, routes, results, resultExpires } = this.#options
    this.#silence = Math.max(Math.min(timeout, SILENCE_MS.most), SILENCE_MS.least)
    this.#publisher = new Publisher(this.#brokerOptions('adds tasks'), new Set([queue, ...Object.values(routes)]), this.#silence)
    if (results !== undefined) {
      this.#results = new Results(this.#ioredis!, { connection: results, expires: resultExpires, silence: this.#silence, inTrouble: error => this.#inTrouble('Redis', error) })
    }
    await Promise.all([this.#publisher.open(), this.#results?.open()])
  }

  #brokerOptions (what: string): Omit<BrokerOptions, 'setUp'> {
    const { broker, socket } = this.#options
    return {
      connect: this.#amqplib.connect,
      brokers: [broker].flat() as Array<string | object>,
      socket,
      name: `fastify-background-tasks: ${what}`,
      timeout: this.#silence,
      inTrouble: error => this.#inTrouble('RabbitMQ', error)
    }
  }

  redact (error: unknown): void {
    this.#secrets.redact(error)
  }

  #inTrouble (server: string, err: Error): void {
    this.redact(err)
    if (!this.#closed && this.#troubles.isNew(String(reasonOf(err)))) this.#log.warn({ err }, `${this.name}: ${server} is in trouble`)
  }

  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    return Promise.all(batches.map(tasks => this.#storeBatch(tasks).then(() => tasks.map(({ id }) => id), error => error as Error)))
  }

  /** Each task is a message, and RabbitMQ confirms each: if it refuses one of them, others of the batch are there. */
  async #storeBatch (tasks: StoredTask[]): Promise<void> {
    const publisher = this.#publisher as Publisher
    const now = Date.now()
    for (let from = 0; from < tasks.length; from += AT_ONCE) {
      const some = tasks.slice(from, from + AT_ONCE)
      // Before the messages: a worker may have ended one before its confirm is here.
      const remembered = this.#results?.remember(some).catch(error => this.#inTrouble('Redis', error))
      await publisher.publish(some.map(task => messageOf(task, this.#queueOf(task.name), (this.#definitions.get(task.name) as TaskDefaults).singleArgument, now)))
      await remembered
    }
  }

  #queueOf (name: string): string {
    for (const [pattern, queue] of this.#routes) if (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern) return queue
    return this.#options.queue
  }

  async work (concurrency: number, deliver: Deliver, threads: ThreadRoom): Promise<void> {
    const { queue, maxCrashes } = this.#options
    this.#worker = new CeleryWorker({
      queue,
      queueOf: name => this.#queueOf(name),
      intake: new Intake(concurrency, threads),
      deliver,
      maxCrashes,
      publish: message => this.#publisher!.publish([message]),
      results: this.#results,
      defaultsOf: name => this.#definitions.get(name),
      log: this.#log,
      logOf: this.#logOf,
      inTrouble: error => this.#inTrouble('RabbitMQ', error)
    }, this.#brokerOptions('runs tasks'))
    await this.#worker.open()
  }

  async pause (): Promise<void> {
    await this.#worker?.pause()
  }

  async resume (): Promise<void> {
    this.#worker?.resume()
  }

  async find (id: string): Promise<TaskInfo | null> {
    if (this.#results !== null) return this.#results.find(id)
    const here = this.#worker?.find(id) ?? null
    if (here === null) return null
    const { task, running, attempts } = here
    return { id, name: task.label, state: running ? 'running' : 'pending', attempts, progress: undefined, result: undefined, error: undefined }
  }

  /** RabbitMQ takes no message out of the middle of a queue. */
  async cancel (id: string): Promise<boolean> {
    return await this.#worker?.cancel(id) ?? false
  }

  async close (ms: number): Promise<void> {
    this.#closed = true
    await this.#worker?.close(ms)
    await this.#publisher?.close(ms)
    this.#results?.close()
    this.#worker = null
  }
}
