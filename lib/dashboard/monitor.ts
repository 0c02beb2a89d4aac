import type { Add } from '../add'
import type { Line } from '../line'
import type { Observer } from '../observer'
import { parsePayload, type KeptPayload } from '../payload'
import type { Runtime } from '../runtime'
import { Snapshot } from '../snapshot'
import { COMPLETED, FAILED, RUNNING, type Task, type TaskFunction } from '../task'
import type { TaskSpec } from '../task-options'

/** What happened in one second. */
export interface Second {
  /** Seconds since 1970. */
  at: number
  completed: number
  failed: number
  /** Attempts begun, and how long they had waited for it: in all, and the one that waited longest; in ms. */
  begun: number
  waited: number
  longest: number
}

/** A task that has failed for good. */
export interface Failure {
  readonly id: string
  readonly name: string
  readonly requestId: string | null
  readonly at: number
  readonly attempt: number
  readonly error: unknown
  /** A delivery of the backend's, which has what it needs to be run again. */
  readonly delivered: boolean
  /** Whether what it was given is all there: what moves to a thread is not. */
  readonly whole: boolean
  readonly fn: TaskFunction
  /** As the task had them. */
  readonly args: readonly unknown[]
  readonly spec: TaskSpec | null
}

/** Seconds that are remembered. */
const SECONDS = 300

/** What a task's `since` counts from, so that it is a small integer, which is stored in place. */
const EPOCH = Date.now() - 1

/** Notes what nobody could find out later: since when each task is as it is, what happened lately, what failed and why. */
export class Monitor implements Observer {
  readonly #runtime: Runtime
  readonly #limit: number
  readonly #seconds: Second[] = []
  #second: Second
  /** The ledger's counts when that second began. */
  #completed = 0
  #failed = 0
  readonly #failures = new Map<string, Failure>()
  /** Why tasks wait for another attempt. */
  readonly #retries = new WeakMap<Task, unknown>()

  /**
   * @param limit how many failures it keeps
   */
  constructor (runtime: Runtime, limit: number) {
    this.#runtime = runtime
    this.#limit = limit
    this.#second = this.#begin(Math.floor(Date.now() / 1_000))
  }

  /** When a task came into its state, in ms of `Date.now()`; `null` for one that is older than this. */
  static sinceOf (task: Task): number | null {
    return task.since === 0 ? null : task.since + EPOCH
  }

  accepted (task: Task): void {
    task.since = this.#clock() - EPOCH
  }

  moves (task: Task, to: number): void {
    const now = this.#clock()
    if (to > RUNNING) return
    if (to === RUNNING) {
      // Its delay and its backoff are no time in the queue.
      const queued = task.spec === null ? task.since + EPOCH : Math.max(task.since + EPOCH, task.extra.due)
      const waited = Math.max(now - queued, 0)
      const second = this.#second
      second.begun++
      second.waited += waited
      if (waited > second.longest) second.longest = waited
    }
    task.since = now - EPOCH
  }

  retried (task: Task, error: unknown): void {
    this.#retries.set(task, error)
  }

  failed (task: Task, line: Line, error: unknown): void {
    const { ownId: id, name, attempts: attempt, fn, spec } = task
    const args = task.args as unknown[]
    const whole = spec === null || spec.definition === null || !(args[0] instanceof Snapshot && args[0].moved)
    this.#keep({ id, name, requestId: line.requestId, at: Date.now(), attempt, error, delivered: line.retriesElsewhere, whole, fn, args, spec })
  }

  #keep (failure: Failure): void {
    // A delivery that fails once more is the last of them again.
    this.#failures.delete(failure.id)
    this.#failures.set(failure.id, failure)
    if (this.#failures.size > this.#limit) this.#failures.delete(this.#failures.keys().next().value as string)
  }

  /** Why the task waits for its next attempt. */
  retryOf (task: Task): unknown {
    return this.#retries.get(task)
  }

  /** The oldest first. */
  get failures (): ReadonlyMap<string, Failure> {
    return this.#failures
  }

  /** The seconds that are over, from one on. */
  secondsFrom (at: number): Second[] {
    this.#clock()
    return this.#seconds.filter(second => second.at >= at)
  }

  /**
   * Adds a failed task anew, to the application, with what it was given.
   * @throws what `add` throws
   */
  runAgain (failure: Failure): void {
    const { fn, args, spec } = failure
    const door = this.#runtime.door as Pick<Add, 'add'> & { add (...args: unknown[]): unknown }
    if (spec === null) door.add(fn, ...args)
    else {
      const { name, timeout, attempts, backoff, signal, definition } = spec
      const options = { name: name ?? undefined, timeout, attempts, backoff: backoff ?? undefined }
      if (definition === null) door.add({ ...options, signal }, fn, ...args)
      else door.add(options, fn, parsePayload(args[0] as KeptPayload))
    }
    this.#failures.delete(failure.id)
  }

  /** A failed task is run again by the backend. */
  forget (id: string): void {
    this.#failures.delete(id)
  }

  #clock (): number {
    const now = Date.now()
    const at = Math.floor(now / 1_000)
    if (at !== this.#second.at) this.#turn(at)
    return now
  }

  #turn (at: number): void {
    const { ledger } = this.#runtime
    const second = this.#second
    second.completed = ledger.count(COMPLETED) - this.#completed
    second.failed = ledger.count(FAILED) - this.#failed
    this.#seconds.push(second)
    const { length } = this.#seconds
    // After a night without tasks, all of them are too old.
    const kept = this.#seconds.findIndex(other => other.at > at - SECONDS)
    if (kept !== 0) this.#seconds.splice(0, kept === -1 ? length : kept)
    this.#second = this.#begin(at)
  }

  #begin (at: number): Second {
    const { ledger } = this.#runtime
    this.#completed = ledger.count(COMPLETED)
    this.#failed = ledger.count(FAILED)
    return { at, completed: 0, failed: 0, begun: 0, waited: 0, longest: 0 }
  }
}
