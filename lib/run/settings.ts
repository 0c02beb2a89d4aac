import type { ResourceLimits } from 'node:worker_threads'
import type { ScheduleRule, TaskBackend, TaskDefaults } from '../../types/backend'
import type { TaskDefinition } from '../../types/definition'
import type { BackgroundTasksOptions } from '../../types/options'
import { definitionOf } from '../task/define'
import type { Definition } from '../task/spec'

/** The options of a registration, checked, with every field there. */
export interface Settings {
  readonly tasks: ReadonlyMap<string, TaskDefinition>
  readonly onFailure: 'continue' | 'stop'
  readonly onError: NonNullable<BackgroundTasksOptions['onError']> | null
  readonly outcome: NonNullable<BackgroundTasksOptions['outcome']> | null
  readonly concurrency: number
  readonly maxPending: number
  readonly abortGrace: number
  readonly closeTimeout: number
  readonly backend: TaskBackend | null
  /** 0 for none. */
  readonly workerConcurrency: number
  readonly storeTimeout: number
  readonly schedules: ReadonlyMap<string, ScheduleSettings>
  readonly threads: ThreadSettings
  readonly mode: 'run' | 'capture'
  readonly asyncContext: boolean
  readonly disposeScopes: boolean
}

/** A schedule, checked. */
export interface ScheduleSettings {
  readonly id: string
  readonly task: TaskDefinition
  /** JSON text; `null` for none. */
  readonly payload: string | null
  readonly rule: ScheduleRule
  readonly overlap: boolean
}

export interface ThreadSettings {
  readonly max: number
  readonly idleTimeout: number
  readonly maxQueue: number
  readonly resourceLimits: ResourceLimits
}

/** The definitions that this process may have to run on a thread. A process that only hands tasks to a backend needs no threads. */
export function threadedDefinitions ({ tasks, backend, workerConcurrency }: Settings): Definition[] {
  const definitions = [...tasks.values()].map(task => definitionOf(task) as Definition)
  return definitions.filter(({ file, spec }) => file !== null && (spec.local || backend === null || workerConcurrency !== 0))
}

/** For each task that a handler on a thread may add, whether its payload is cloned; else it is JSON. */
export function threadTasks ({ tasks }: Settings): ReadonlyMap<string, boolean> {
  return new Map([...tasks].map(([name, task]) => {
    const { file, spec } = definitionOf(task) as Definition
    return [name, file !== null && spec.local]
  }))
}

/** The defaults of the definitions, by their names, for a backend. */
export function taskDefaults ({ tasks }: Settings): ReadonlyMap<string, TaskDefaults> {
  return new Map([...tasks].map(([name, task]) => {
    const { singleArgument, spec: { attempts, backoff, timeout } } = definitionOf(task) as Definition
    return [name, { attempts, backoff, timeout, singleArgument }]
  }))
}
