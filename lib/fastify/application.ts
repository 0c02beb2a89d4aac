import type { FastifyInstance } from 'fastify'
import type { BackgroundTasksOptions } from '../../types/options'
import { AppTasks } from '../collect/app-tasks'
import { AttemptTasks } from '../collect/attempt-tasks'
import type { AppParts } from '../collect/parts'
import { bridgeTo, type DiBridge } from '../di/bridge'
import { Engine } from '../run/engine'
import { type Settings, taskDefaults, threadedDefinitions, threadTasks } from '../run/settings'
import { Schedules } from '../schedule/schedules'
import { deliverTo, placesFor, threadRoomOf } from '../store/deliveries'
import { HandOver } from '../store/hand-over'
import { Store } from '../store/store'
import { Threads } from '../threads'
import { drain } from './drain'
import { resolveOptions } from './options'
import { requestLogs } from './request-log'

/** The parts of one registration. Made when the plugin is registered; lives until the application has closed. */
export class Application implements AppParts {
  readonly #fastify: FastifyInstance
  readonly settings: Settings
  readonly engine: Engine
  readonly store: Store | null
  readonly handOver: HandOver | null
  readonly threads: Threads | null
  readonly di: DiBridge | null
  readonly tasks: AppTasks
  readonly schedules: Schedules
  #drained: Promise<void> | null = null

  /** @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION, FST_BGT_DUPLICATE_TASK, FST_BGT_NO_HANDLER */
  constructor (fastify: FastifyInstance, options: BackgroundTasksOptions) {
    const settings = this.settings = resolveOptions(options)
    const { backend, mode, storeTimeout } = settings
    this.#fastify = fastify
    const engine = this.engine = new Engine(settings, fastify.log, requestLogs(fastify))
    this.store = backend === null || mode === 'capture' ? null : new Store(backend, storeTimeout)
    this.handOver = this.store === null ? null : new HandOver(engine, this.store)
    this.threads = mode === 'run' && threadedDefinitions(settings).length !== 0 ? new Threads(settings.threads, threadTasks(settings), engine.report) : null
    this.tasks = new AppTasks(this)
    this.schedules = new Schedules(engine, this.tasks, this.store)
    this.di = bridgeTo(fastify, this, settings.asyncContext ? this.tasks.current : null)
    engine.app = this.tasks
    engine.collect = line => new AttemptTasks(this, line)
    engine.threads = this.threads
    engine.scopeMaker = this.di
  }

  get scopeKeeper (): DiBridge | null {
    return this.di
  }

  /** @throws FST_BGT_BUNDLED, FST_BGT_MISSING_PACKAGE, FST_BGT_INVALID_MODULE, FST_BGT_THREAD_DIED */
  async startThreads (): Promise<void> {
    await this.threads?.check(threadedDefinitions(this.settings))
  }

  /**
   * Connects the backend, and lets it hand out tasks.
   * @throws FST_BGT_BACKEND_FAILED, FST_BGT_MISSING_PACKAGE, FST_BGT_NODE_VERSION
   */
  async #startBackend (store: Store): Promise<void> {
    const { engine, settings } = this
    await store.open(this.#fastify.log, engine.logOf, taskDefaults(settings))
    if (settings.workerConcurrency !== 0) await store.work(placesFor(settings), deliverTo(engine), threadRoomOf(engine))
  }

  /** Starts what runs by itself: the backend, and the schedules. */
  async start (): Promise<void> {
    if (this.store !== null) await this.#startBackend(this.store)
    await this.schedules.start()
  }

  /**
   * Drains after the server has closed and before the `onClose` hooks of all plugins, by a function given to avvio: docs/design.md, "The
   * close".
   */
  drainFirst (): void {
    const avvio = this.#fastify as unknown as { onClose (fn: (instance: unknown, done: () => void) => void): void }
    avvio.onClose((_instance, done) => { this.drain().then(done) })
  }

  /** See {@link drain}. All callers share one drain. */
  drain (): Promise<void> {
    this.schedules.stop()
    this.#drained ??= drain(this)
    return this.#drained
  }
}
