import type { TaskHandle } from './task'

/*
 * How the trace of a request goes with its tasks. Only an instrumentation knows what a trace is: while one is enabled, it
 * stands here.
 */

/** What an instrumentation sends along with a task, to where that runs: W3C trace context, for instance. */
export type Carrier = Record<string, string>

export interface Propagation {
  /** What is active where this is called. `task` is one on its way to the backend; its own async context is active then. */
  inject (task: TaskHandle | null): Carrier
  /** The backend has not taken a task that {@link inject} was called with. */
  refused (task: TaskHandle, error: unknown): void
  /** Calls a function so that what the carrier has is active in it. */
  extract<T> (carrier: Carrier, fn: () => T): T
  /** Calls the function of a task, whose run has just been announced, so that this run is active in it. */
  run<T> (task: TaskHandle, fn: () => T): T
}

let current: Propagation | null = null

/** The instrumentation that is enabled. */
export function propagation (): Propagation | null {
  return current
}

export function setPropagation (propagation: Propagation | null): void {
  current = propagation
}

/** What to send to another thread, or process, that is to go on with what is active here; `null` without an instrumentation. */
export function currentCarrier (): Carrier | null {
  return current === null ? null : current.inject(null)
}

/** Calls a function as a part of what {@link currentCarrier} was called in, elsewhere. */
export function withCarrier<T> (carrier: Carrier | null, fn: () => T): T {
  return current === null || carrier === null ? fn() : current.extract(carrier, fn)
}
