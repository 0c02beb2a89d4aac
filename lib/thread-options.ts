import { availableParallelism } from 'node:os'
import type { ResourceLimits } from 'node:worker_threads'
import { milliseconds } from './check-options'

/** The pool of worker threads that tasks run on which are defined by their file. */
export interface ThreadOptions {
  /**
   * How many threads there may be. At the start one more loads the modules, if tasks have all of them already.
   * @default one less than the cores, at least one
   */
  max?: number
  /**
   * Milliseconds that a thread waits for another task before it ends.
   * @default 30_000
   */
  idleTimeout?: number
  /**
   * How many tasks that were added here may be waiting for a thread; `add` throws `FST_BGT_OVERLOADED` (503) beyond.
   * @default Infinity: only `maxPending` limits them
   */
  maxQueue?: number
  /** Limits of each thread's engine, as `Worker` of `node:worker_threads` takes them; `maxOldGenerationSizeMb` from 4 on. */
  resourceLimits?: ResourceLimits
}

export interface ResolvedThreadOptions {
  readonly max: number
  readonly idleTimeout: number
  readonly maxQueue: number
  readonly resourceLimits: ResourceLimits
}

const OPTIONS = ['max', 'idleTimeout', 'maxQueue', 'resourceLimits']
/** With less, in MB, Node 22 and later end the whole process when a thread starts. */
const MIN_OLD_GENERATION = 4

const RESOURCES = ['maxOldGenerationSizeMb', 'maxYoungGenerationSizeMb', 'codeRangeSizeMb', 'stackSizeMb']

export const THREAD_OPTIONS = '{ max: a whole number from 1 on, idleTimeout: milliseconds, maxQueue: a whole number from 1 on or Infinity, ' +
  `resourceLimits: what a Worker takes, maxOldGenerationSizeMb from ${MIN_OLD_GENERATION} on }`

export function resolveThreadOptions (options: ThreadOptions): ResolvedThreadOptions {
  const { max = Math.max(availableParallelism() - 1, 1), idleTimeout = 30_000, maxQueue = Infinity, resourceLimits = {} } = options
  return { max, idleTimeout, maxQueue, resourceLimits }
}

export function isThreadOptions (value: unknown): value is ThreadOptions {
  if (typeof value !== 'object' || value === null) return false
  const { max, idleTimeout, maxQueue, resourceLimits } = resolveThreadOptions(value)
  return isCount(max) && milliseconds[1](idleTimeout) &&
    (maxQueue === Infinity || isCount(maxQueue)) && areLimits(resourceLimits) &&
    Object.keys(value).every(name => OPTIONS.includes(name))
}

function isCount (value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 1
}

function areLimits (value: unknown): boolean {
  return typeof value === 'object' && value !== null &&
    Object.entries(value).every(([name, limit]) => RESOURCES.includes(name) && typeof limit === 'number' && limit > 0 &&
      (name !== 'maxOldGenerationSizeMb' || limit >= MIN_OLD_GENERATION))
}
