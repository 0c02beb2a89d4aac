import type { FastifyBaseLogger } from 'fastify'
import type { Add } from './add'
import type { CapturedTask } from './capture'
import type { DiBridge } from './di-scope'
import { Executor } from './executor'
import { Ledger } from './ledger'
import { threadedDefinitions, type ResolvedOptions } from './options'
import { Report } from './report'
import type { LogOf } from './request-log'
import { Runner } from './runner'
import { Store } from './store'
import { TaskIndex } from './task-index'
import { Threads } from './threads'

/** What one registration of the plugin consists of. The parts find each other here. */
export class Runtime {
  readonly options: ResolvedOptions
  readonly log: FastifyBaseLogger
  readonly logOf: LogOf
  readonly ledger: Ledger
  readonly index = new TaskIndex()
  readonly report: Report
  readonly executor: Executor
  readonly runner: Runner
  readonly captured: CapturedTask[] = []
  /** Where defined tasks are kept; `null` without a backend. */
  readonly store: Store | null
  /** Where tasks run that are defined by their file; `null` if none can run here. */
  readonly threads: Threads | null
  /** The application's close, once it has begun to wait for the tasks. */
  drained: Promise<void> | null = null
  /** Once the application's close has run out of time: what signals abort with from then on. */
  closeReason: Error | null = null
  /** Set where `@fastify/awilix` is registered. */
  di: DiBridge | null = null
  /** The application's own `add`. */
  declare door: Add

  constructor (options: ResolvedOptions, log: FastifyBaseLogger, logOf: LogOf) {
    this.options = options
    this.log = log
    this.logOf = logOf
    this.store = options.backend === null || options.mode === 'capture' ? null : new Store(options.backend, options.storeTimeout)
    this.ledger = new Ledger(options.maxPending)
    this.report = new Report(log, options.onError)
    this.threads = options.mode === 'run' && threadedDefinitions(options).length !== 0 ? new Threads(options.threads, this.report) : null
    this.executor = new Executor(this)
    this.runner = new Runner(this.executor, options.concurrency)
  }
}
