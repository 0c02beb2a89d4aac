import type { Carrier } from '../../types/messages'
import type { TaskHandle } from '../../types/task'

/*
 * How the trace of a request continues in its tasks. Only an instrumentation knows traces; the enabled one registers here.
 */

export interface Propagation {
  /** The active trace context. With `task`, which is about to be sent to the backend, the task's async context is active. */
  inject (task: TaskHandle | null): Carrier
  /** Called when the backend has not stored a task that {@link inject} was called with. */
  refused (task: TaskHandle, error: unknown): void
  /** Calls a function in the carrier's trace context. */
  extract<T> (carrier: Carrier, fn: () => T): T
  /** Calls a task's function in the trace context of its run, which has just been published. */
  run<T> (task: TaskHandle, fn: () => T): T
}

let current: Propagation | null = null

/** The enabled instrumentation; `null` without one. */
export function propagation (): Propagation | null {
  return current
}

export function setPropagation (propagation: Propagation | null): void {
  current = propagation
}

/** The active trace context, to send to another thread or process; `null` without an instrumentation. */
export function currentCarrier (): Carrier | null {
  return current === null ? null : current.inject(null)
}

/** Calls a function in the trace context that {@link currentCarrier} returned elsewhere. */
export function withCarrier<T> (carrier: Carrier | null, fn: () => T): T {
  return current === null || carrier === null ? fn() : current.extract(carrier, fn)
}
