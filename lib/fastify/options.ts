import type { TaskDefinition } from '../../types/definition'
import type { BackgroundTasksOptions, ThreadOptions } from '../../types/options'
import type { Schedule } from '../../types/schedule'
import type { Settings } from '../run/settings'
import { type Check, checkOptions, type Checks, flag, limit, milliseconds, oneOf } from '../shared/check-options'
import { FST_BGT_DUPLICATE_TASK, FST_BGT_NO_HANDLER } from '../shared/errors'
import { durableSchedules, resolveSchedules, schedulesCheck } from '../schedule/options'
import { withheld } from '../shared/show'
import { definitionOf } from '../task/define'
import type { Definition } from '../task/spec'
import { isThreadOptions, resolveThreadOptions, THREAD_OPTIONS } from '../threads/options'

const DEFAULT_CONCURRENCY = 10

const DEFAULTS: Required<Omit<BackgroundTasksOptions, 'onError' | 'outcome' | 'backend'>> & { onError: null, outcome: null, backend: null } = {
  tasks: [],
  onFailure: 'continue',
  onError: null,
  outcome: null,
  concurrency: Infinity,
  maxPending: 100_000,
  abortGrace: 30_000,
  closeTimeout: 5_000,
  backend: null,
  worker: { concurrency: DEFAULT_CONCURRENCY },
  storeTimeout: 5_000,
  schedules: {},
  threads: {},
  mode: 'run',
  asyncContext: false,
  disposeScopes: true
}

const isFunction: Check = ['a function', value => typeof value === 'function']

const CHECKS: Checks<typeof DEFAULTS> = {
  tasks: ['an array of defined tasks', value => Array.isArray(value) && value.every(task => typeof task === 'function' && definitionOf(task) !== undefined)],
  onFailure: oneOf('continue', 'stop'),
  onError: isFunction,
  outcome: isFunction,
  concurrency: limit,
  maxPending: limit,
  abortGrace: milliseconds,
  closeTimeout: milliseconds,
  backend: ['a backend, made by one of the functions of this package', value => value !== null && typeof value === 'object' && typeof value.store === 'function', withheld],
  worker: ['false or { concurrency: a whole number from 1 on }', value => value === false || isWorker(value)],
  storeTimeout: milliseconds,
  schedules: schedulesCheck,
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

/** The options for the log line at the start, without what JSON cannot express: functions and `Infinity`. */
export function loggable (options: Settings): object {
  const plain = { ...options, tasks: [...options.tasks.keys()], schedules: [...options.schedules.keys()], backend: options.backend?.name ?? null, onError: options.onError !== null, outcome: options.outcome !== null }
  return JSON.parse(JSON.stringify(plain, (_name, value) => value === Infinity ? 'Infinity' : value)) as object
}

/** Options of `register` that are Fastify's own. */
const FASTIFY_OPTIONS = ['prefix', 'logLevel', 'logSerializers', 'encapsulate']

/**
 * Checks the options of the plugin, and fills in the defaults.
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION, FST_BGT_DUPLICATE_TASK, FST_BGT_NO_HANDLER, and for `schedules`
 * FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE, FST_BGT_UNSUPPORTED
 */
export function resolveOptions (options: BackgroundTasksOptions): Settings {
  const resolved: Record<string, unknown> = checkOptions<object, typeof DEFAULTS>(options, DEFAULTS, CHECKS, { ignored: FASTIFY_OPTIONS })
  const tasks = new Map<string, TaskDefinition>()
  for (const task of resolved.tasks as TaskDefinition[]) {
    if (tasks.has(task.name)) throw new FST_BGT_DUPLICATE_TASK(task.name)
    if ((definitionOf(task) as Definition).elsewhere && resolved.backend === null && resolved.mode === 'run') {
      throw new FST_BGT_NO_HANDLER(task.name, 'that needs a backend, received none')
    }
    tasks.set(task.name, task)
  }
  const { worker, threads, schedules: given, ...others } = resolved
  const schedules = resolveSchedules(given as Record<string, Schedule>, tasks)
  durableSchedules({ ...resolved, schedules } as unknown as Settings)
  const workerConcurrency = worker === false ? 0 : (worker as { concurrency?: number }).concurrency ?? DEFAULT_CONCURRENCY
  return { ...others, workerConcurrency, tasks, schedules, threads: resolveThreadOptions(threads as ThreadOptions) } as unknown as Settings
}
