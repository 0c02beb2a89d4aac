import type { Carrier } from '../../types/messages'
import type { ContextTaskOptions, TaskHandle } from '../../types/task'

/** A task that a handler on a thread adds, as it comes to the main thread. The thread has checked the arguments. */
export interface Addition {
  readonly id: string
  /** The name of the definition. */
  readonly task: string
  readonly options: ContextTaskOptions | null
  /** JSON text, or the value itself for a task whose payload is cloned. */
  readonly payload: { readonly json: string | undefined } | { readonly value: unknown }
  /** The trace context of the call; `null` without an instrumentation in the thread. */
  readonly carrier: Carrier | null
}

/** The tasks that one attempt adds. */
export interface AttemptCollector {
  /** See `TaskContext.add`. */
  add (first: unknown, args: unknown[]): TaskHandle
  /** Does not throw: a refusal fails the attempt when its function has ended. */
  addForThread (addition: Addition): void
  /**
   * Called when the function has ended well. Returns `null` if nothing was refused, and nothing is on its way to the backend.
   * @throws the first refusal (as a rejection), FST_BGT_STORE_FAILED for instance
   */
  stored (): Promise<void> | null
}
