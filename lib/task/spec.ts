import type { TaskHandler, Transferable } from '../../types/definition'
import type { BackoffOptions, RunOn } from '../../types/task'

/** The checked options of a task, complete with defaults. */
export interface TaskSpec {
  readonly name: string | null
  readonly runOn: RunOn
  /** Milliseconds for one attempt; 0 for no limit. */
  readonly timeout: number
  readonly attempts: number
  readonly backoff: Required<BackoffOptions> | null
  /** Milliseconds before the first attempt. */
  readonly delay: number
  readonly key: string | null
  readonly dedupe: string | null
  readonly signal: boolean
  /** Keeps a defined task in this process where there is a backend. */
  readonly local: boolean
  readonly definition: Definition | null
}

/** See `ThreadDefinitionOptions.transfer`. */
export type Transfer = (payload: any) => readonly Transferable[]

/** The plugin's side of a `TaskDefinition`. */
export interface Definition {
  readonly name: string
  readonly handler: TaskHandler<any, unknown>
  /** The URL of the module that runs on a thread; `null` for a handler that runs here. */
  readonly file: string | null
  readonly transfer: Transfer | null
  /** Whether the task has no function here, and runs in other processes. */
  readonly elsewhere: boolean
  readonly singleArgument: boolean
  readonly spec: TaskSpec
}
