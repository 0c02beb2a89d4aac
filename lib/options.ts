import type { FastifyRequest } from 'fastify'
import type { TaskBackend } from './backends/backend'
import { definitionOf, type Definition, type TaskDefinition } from './define-task'
import { checkOptions, flag, limit, milliseconds, oneOf, type Checks } from './check-options'
import { FST_BGT_DUPLICATE_TASK } from './errors'
import type { TaskHandle } from './task'
import { isThreadOptions, resolveThreadOptions, THREAD_OPTIONS, type ResolvedThreadOptions, type ThreadOptions } from './thread-options'

/** The options of the plugin. All are checked once, at registration. */
export interface BackgroundTasksOptions {
  /**
   * The definitions that this application may add.
   * @default []
   */
  tasks?: readonly TaskDefinition<any, any>[]
  /**
   * What a failed task means for those behind it in its request. `continue`: nothing. `stop`: they are dropped, which
   * is Starlette's rule, and a task that waits for its next attempt keeps them waiting.
   * @default 'continue'
   */
  onFailure?: 'continue' | 'stop'
  /** Called after a task has failed for good and that has been logged. `request` is `null` for a task of the application. */
  onError?: (error: unknown, task: TaskHandle, request: FastifyRequest | null) => unknown
  /**
   * How many tasks may run at once in the whole application.
   * @default Infinity
   */
  concurrency?: number
  /**
   * How many tasks may be accepted and not settled; `add` throws `FST_BGT_OVERLOADED` (503) beyond.
   * @default 100_000
   */
  maxPending?: number
  /**
   * Milliseconds to wait, after a client has left before anything was sent, for the handler to settle. Its tasks
   * start then, or when this time is over.
   * @default 30_000
   */
  abortGrace?: number
  /**
   * Milliseconds that `app.close()` waits for the tasks, from the moment on when the server has closed.
   * @default 5_000
   */
  closeTimeout?: number
  /**
   * Keeps defined tasks where they outlive this process, and where others can run them. Plain functions, and definitions
   * with `local: true`, stay here.
   * @default none: all tasks stay in this process
   */
  backend?: TaskBackend
  /**
   * Whether, and how many at once, this process runs tasks of the backend.
   * @default { concurrency: 10 }
   */
  worker?: { concurrency?: number } | false
  /**
   * Milliseconds that the backend may take to store a request's tasks; then the request is answered with 503
   * `FST_BGT_STORE_FAILED`.
   * @default 5_000
   */
  storeTimeout?: number
  /** The pool of threads for tasks that are defined by their file. */
  threads?: ThreadOptions
  /**
   * `capture` is for tests: tasks that would have run are recorded in `app.backgroundTasks.captured` instead.
   * @default 'run'
   */
  mode?: 'run' | 'capture'
  /**
   * Follows each request with `AsyncLocalStorage`, for `app.backgroundTasks.current`. With `@fastify/awilix`, the root
   * container gets that same door as `backgroundTasks`, which a singleton may hold, and request scopes get nothing of
   * their own.
   * @default false
   */
  asyncContext?: boolean
  /**
   * Whether the DI scope of a request whose client has left, or that adds tasks after its response, is disposed once they
   * have settled; `@fastify/awilix` does not do so itself. Set it to `false` where its `disposeOnResponse` is.
   * @default true
   */
  disposeScopes?: boolean
}

/** The options, checked, with every field there. */
export interface ResolvedOptions {
  readonly tasks: ReadonlyMap<string, TaskDefinition>
  readonly onFailure: 'continue' | 'stop'
  readonly onError: NonNullable<BackgroundTasksOptions['onError']> | null
  readonly concurrency: number
  readonly maxPending: number
  readonly abortGrace: number
  readonly closeTimeout: number
  readonly backend: TaskBackend | null
  /** 0 for none. */
  readonly workerConcurrency: number
  readonly storeTimeout: number
  readonly threads: ResolvedThreadOptions
  readonly mode: 'run' | 'capture'
  readonly asyncContext: boolean
  readonly disposeScopes: boolean
}

const DEFAULT_CONCURRENCY = 10

const DEFAULTS: Required<Omit<BackgroundTasksOptions, 'onError' | 'backend'>> & { onError: null, backend: null } = {
  tasks: [],
  onFailure: 'continue',
  onError: null,
  concurrency: Infinity,
  maxPending: 100_000,
  abortGrace: 30_000,
  closeTimeout: 5_000,
  backend: null,
  worker: { concurrency: DEFAULT_CONCURRENCY },
  storeTimeout: 5_000,
  threads: {},
  mode: 'run',
  asyncContext: false,
  disposeScopes: true
}

const CHECKS: Checks<typeof DEFAULTS> = {
  tasks: ['an array of defined tasks', value => Array.isArray(value) && value.every(task => typeof task === 'function' && definitionOf(task) !== undefined)],
  onFailure: oneOf('continue', 'stop'),
  onError: ['a function', value => typeof value === 'function'],
  concurrency: limit,
  maxPending: limit,
  abortGrace: milliseconds,
  closeTimeout: milliseconds,
  backend: ['a backend, made by one of the functions of this package', value => value !== null && typeof value === 'object' && typeof value.store === 'function'],
  worker: ['false or { concurrency: a whole number from 1 on }', value => value === false || isWorker(value)],
  storeTimeout: milliseconds,
  threads: [THREAD_OPTIONS, isThreadOptions],
  mode: oneOf('run', 'capture'),
  asyncContext: flag,
  disposeScopes: flag
}

function isWorker (value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { concurrency = 1, ...others } = value as { concurrency?: number }
  return Number.isSafeInteger(concurrency) && concurrency >= 1 && Object.keys(others).length === 0
}

/** The options as the line at the start shows them. JSON has neither functions nor infinity. */
export function loggable (options: ResolvedOptions): object {
  const plain = { ...options, tasks: [...options.tasks.keys()], backend: options.backend?.name ?? null, onError: options.onError !== null }
  return JSON.parse(JSON.stringify(plain, (_name, value) => value === Infinity ? 'Infinity' : value)) as object
}

/** What Fastify itself reads from the options of `register`. */
const FASTIFY_OPTIONS = ['prefix', 'logLevel', 'logSerializers', 'encapsulate']

/**
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION, FST_BGT_DUPLICATE_TASK
 */
export function resolveOptions (options: BackgroundTasksOptions): ResolvedOptions {
  const own = Object.fromEntries(Object.entries(options).filter(([name]) => !FASTIFY_OPTIONS.includes(name)))
  const resolved: Record<string, unknown> = checkOptions(own, DEFAULTS, CHECKS)
  const tasks = new Map<string, TaskDefinition>()
  for (const task of resolved.tasks as TaskDefinition[]) {
    if (tasks.has(task.name)) throw new FST_BGT_DUPLICATE_TASK(task.name)
    tasks.set(task.name, task)
  }
  const { worker, threads, ...others } = resolved
  const workerConcurrency = worker === false ? 0 : (worker as { concurrency?: number }).concurrency ?? DEFAULT_CONCURRENCY
  return { ...others, workerConcurrency, tasks, threads: resolveThreadOptions(threads as ThreadOptions) } as unknown as ResolvedOptions
}

/** The definitions that this process may have to run on a thread. One that only hands tasks to a backend needs no threads. */
export function threadedDefinitions ({ tasks, backend, workerConcurrency }: ResolvedOptions): Definition[] {
  const definitions = [...tasks.values()].map(task => definitionOf(task) as Definition)
  return definitions.filter(({ file, spec }) => file !== null && (spec.local || backend === null || workerConcurrency !== 0))
}
