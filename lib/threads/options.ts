import { availableParallelism } from 'node:os'
import type { ThreadOptions } from '../../types/options'
import type { ThreadSettings } from '../run/settings'
import { milliseconds } from '../shared/check-options'

const OPTIONS = ['max', 'idleTimeout', 'maxQueue', 'resourceLimits']

/** With less, Node 22 and later abort the whole process when a thread starts. */
const MIN_OLD_GENERATION_MB = 4
const RESOURCES = ['maxOldGenerationSizeMb', 'maxYoungGenerationSizeMb', 'codeRangeSizeMb', 'stackSizeMb']

export const THREAD_OPTIONS = '{ max: a whole number from 1 on, idleTimeout: milliseconds, maxQueue: a whole number from 1 on or Infinity, ' +
  `resourceLimits: what a Worker takes, maxOldGenerationSizeMb from ${MIN_OLD_GENERATION_MB} on }`

export function resolveThreadOptions (options: ThreadOptions): ThreadSettings {
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
      (name !== 'maxOldGenerationSizeMb' || limit >= MIN_OLD_GENERATION_MB))
}
