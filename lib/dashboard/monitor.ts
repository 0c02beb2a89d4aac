import type { Add } from '../../types/collector'
import type { TaskHandle } from '../../types/task'
import type { Observer } from '../observe/observer'
import type { Line } from '../run/line'
import type { Parts } from './parts'
import { SCHEDULE_DEDUPE } from '../task/options'
import { type KeptPayload, parsePayload } from '../task/payload'
import { Snapshot } from '../task/snapshot'
import type { Origin } from '../task/origin'
import type { TaskSpec } from '../task/spec'
import { COMPLETED, FAILED, RUNNING } from '../task/states'
import type { Task, TaskFunction } from '../task/task'
import { type Group, groupOf, lineOf } from './groups'
import type { SecondView } from './protocol'

/** The events of one second. */
interface Second {
  /** Seconds since 1970. */
  at: number
  completed: number
  failed: number
  /** Attempts that began, the sum of their waits and the longest wait, in ms. */
  begun: number
  waited: number
  longest: number
  /** The begin of the longest wait, in ms of `Date.now()`. */
  oldest: number
}

/** The error of one attempt. */
export interface NotedError {
  readonly at: number
  readonly error: unknown
}

/** A task that has failed for good. */
export interface Failure {
  readonly id: string
  readonly name: string
  readonly requestId: string | null
  readonly at: number
  /** The begin of the last attempt, in ms of `Date.now()`; `null` if the task failed without one. */
  readonly started: number | null
  readonly attempt: number
  /** The errors of the attempts, the last one last. */
  readonly errors: readonly NotedError[]
  readonly group: string
  /** Whether the task is the backend's, which runs it again. */
  readonly delivered: boolean
  /** Whether the arguments are still here: buffers that moved to a thread are not. */
  readonly whole: boolean
  readonly fn: TaskFunction
  readonly args: readonly unknown[]
  readonly spec: TaskSpec | null
}

/** Seconds that are kept. */
const KEPT_SECONDS = 300

/** Groups of failures of this process that are kept: more if more failures are kept. */
const MIN_KEPT_GROUPS = 100
/** Errors of the earlier attempts of one task that are kept. */
const KEPT_ERRORS = 20

/** The zero of a task's `since`: a small integer needs no object of its own in V8. */
const EPOCH_MS = Date.now() - 1

/**
 * Notes what cannot be found out later: the time of each task's last change, the events of the last minutes, failures with their errors.
 * One for each dashboard, from its registration on.
 */
export class Monitor implements Observer {
  readonly #parts: Parts
  readonly #limit: number
  readonly #keptGroups: number
  readonly #seconds: Second[] = []
  #second: Second
  /** The begin of that second, in ms of `Date.now()`. */
  #begunAt = 0
  /** The ledger's counts at the begin of that second. */
  #completed = 0
  #failed = 0
  readonly #failures = new Map<string, Failure>()
  /** All failures by group, with those that are not kept any more. The group with the newest failure comes last. */
  readonly #groups = new Map<string, Group>()
  #earlier = new WeakMap<Task, NotedError[]>()
  readonly #progressed = new WeakMap<Task, number>()
  /** The running tasks; `null` while no page is open. */
  #running: Set<Task> | null = null

  /** @param limit the number of failures that are kept */
  constructor (parts: Parts, limit: number) {
    this.#parts = parts
    this.#limit = limit
    this.#keptGroups = Math.max(MIN_KEPT_GROUPS, limit)
    this.#second = this.#begin(Math.floor(Date.now() / 1_000))
  }

  /** The time of a task's last change of state, in ms of `Date.now()`; `null` for a change before the registration. */
  static sinceOf (task: Task): number | null {
    return task.since === 0 ? null : task.since + EPOCH_MS
  }

  /** The begin of a task's wait for its turn. Delay and backoff do not count as waiting. */
  static queuedSince (task: Task): number | null {
    const since = Monitor.sinceOf(task)
    return since === null || task.spec === null ? since : Math.max(since, task.extra.due)
  }

  accepted (task: Task): void {
    task.since = this.#clock() - EPOCH_MS
  }

  moves (task: Task, to: number): void {
    const now = this.#clock()
    if (this.#running !== null) {
      if (to === RUNNING) this.#running.add(task)
      else if (task.status === RUNNING) this.#running.delete(task)
    }
    if (to > RUNNING) return
    if (to === RUNNING) {
      const queued = Math.min(task.spec === null ? task.since + EPOCH_MS : Math.max(task.since + EPOCH_MS, task.extra.due), now)
      const second = this.#second
      second.begun++
      second.waited += now - queued
      if (now - queued > second.longest) second.longest = now - queued
      if (queued < second.oldest) second.oldest = queued
    }
    task.since = now - EPOCH_MS
  }

  progressed (task: Task): void {
    this.#progressed.set(task, Date.now())
  }

  /** The last sign of life of a running task; `null` if it was before the registration. */
  silentSince (task: Task): number | null {
    return this.#progressed.get(task) ?? Monitor.sinceOf(task)
  }

  retried (task: Task, error: unknown): void {
    const earlier = this.#earlier.get(task)
    const thrown = { at: Date.now(), error }
    if (earlier === undefined) this.#earlier.set(task, [thrown])
    else if (earlier.push(thrown) > KEPT_ERRORS) earlier.shift()
  }

  /** The errors of a task that has not ended. */
  errorsOf (task: Task): readonly NotedError[] {
    return this.#earlier.get(task) ?? []
  }

  failed (task: Task, origin: Origin, error: unknown): void {
    const delivered = (origin as Line).delivery !== null
    // A backend with lists has all failures, those of other processes too.
    if (delivered && this.#parts.store!.can.list) return
    const { ownId: id, name, attempts: attempt, fn, spec } = task
    const args = task.args as unknown[]
    const whole = spec === null || spec.definition === null || !(args[0] instanceof Snapshot && args[0].moved)
    const at = Date.now()
    const started = task.status === RUNNING ? Monitor.sinceOf(task) : null
    const group = groupOf(name, lineOf(error))
    const errors = [...this.errorsOf(task), { at, error }]
    // A delivery that fails again is the newest failure again.
    this.forget(id)
    this.#failures.set(id, { id, name, requestId: origin.requestId, at, started, attempt, errors, group: group.id, delivered, whole, fn, args, spec })
    if (this.#failures.size > this.#limit) this.#failures.delete(this.#failures.keys().next().value as string)
    this.#count(group, at)
  }

  #count (group: Omit<Group, 'count' | 'last'>, last: number): void {
    const count = (this.#groups.get(group.id)?.count ?? 0) + 1
    this.#groups.delete(group.id)
    this.#groups.set(group.id, { ...group, count, last })
    if (this.#groups.size > this.#keptGroups) this.forgetGroup(this.#groups.keys().next().value as string)
  }

  /** The failures that are kept, the oldest first. */
  get failures (): ReadonlyMap<string, Failure> {
    return this.#failures
  }

  /** The group with the oldest failure first. */
  get groups (): ReadonlyMap<string, Group> {
    return this.#groups
  }

  /** The failures of all groups that are kept: each failure is in one. */
  get failedCount (): number {
    let count = 0
    for (const group of this.#groups.values()) count += group.count
    return count
  }

  /** Removes a failure. Returns `false` if there is none with this id. */
  forget (id: string): boolean {
    const failure = this.#failures.get(id)
    if (failure === undefined) return false
    this.#failures.delete(id)
    const group = this.#groups.get(failure.group)!
    if (--group.count === 0) this.#groups.delete(group.id)
    return true
  }

  /** Removes all failures of a group. Returns their number. */
  forgetGroup (id: string): number {
    const count = this.#groups.get(id)?.count ?? 0
    this.#groups.delete(id)
    for (const failure of this.#failures.values()) if (failure.group === id) this.#failures.delete(failure.id)
    return count
  }

  /**
   * Adds a failed task to the application again, with its arguments and options, but for a delay.
   * @returns the new task's id; `null` if another task has its dedupe id
   * @throws what `add` throws
   */
  runAgain (failure: Failure): string | null {
    const { fn, args, spec } = failure
    const app = this.#parts.engine.app as Pick<Add, 'add'> & { add (...args: unknown[]): TaskHandle }
    let task
    if (spec === null) task = app.add(fn, ...args)
    else {
      const { name, timeout, attempts, backoff, signal, dedupe, definition } = spec
      const options = { name: name ?? undefined, timeout, attempts, backoff: backoff ?? undefined }
      if (definition === null) task = app.add({ ...options, signal }, fn, ...args)
      else {
        // That of a schedule is for its own runs.
        const ownDedupe = dedupe === null || dedupe.startsWith(SCHEDULE_DEDUPE) ? undefined : dedupe
        task = app.add({ ...options, dedupe: ownDedupe, delay: 0 }, fn, parsePayload(args[0] as KeptPayload))
      }
    }
    if (task.state === 'dropped') return null
    this.forget(failure.id)
    return task.id
  }

  /** A page is open: from now on running tasks are noted. Those that run already are found once. */
  watch (): void {
    const running = this.#running = new Set<Task>()
    const { ledger } = this.#parts
    const count = ledger.count(RUNNING)
    // From both ends: passing 100,000 waiting lines takes long, and running tasks are among the oldest or the newest.
    const newest = ledger.openLines()
    for (const oldest of ledger.oldestOpenLines()) {
      if (running.size === count) break
      for (const { current } of [oldest, newest.next().value as Line]) if (current?.status === RUNNING) running.add(current)
    }
  }

  /** The last page has been closed. */
  unwatch (): void {
    this.#running = null
  }

  /** The running tasks. Only between `watch` and `unwatch`. */
  get running (): ReadonlySet<Task> {
    return this.#running as Set<Task>
  }

  /**
   * The seconds that are over, from `at` on.
   * @param oldest the begin of the longest wait that still goes on, in ms of `Date.now()`; `Infinity` if nothing waits
   */
  secondsFrom (at: number, oldest: number): SecondView[] {
    const now = Math.floor(this.#clock() / 1_000)
    const known = new Map(this.#seconds.map(second => [second.at, second]))
    const views: SecondView[] = []
    let waitingSince = oldest
    // Backwards: a task that began later was waiting before.
    for (let second = now - 1; second >= Math.max(at, now - KEPT_SECONDS + 1); second--) {
      const { completed = 0, failed = 0, begun = 0, waited = 0, longest: begunAfter = 0, oldest: begunSince = Infinity } = known.get(second) ?? {}
      // The wait by the end of this second.
      const longest = Math.max(begunAfter, (second + 1) * 1_000 - waitingSince)
      waitingSince = Math.min(waitingSince, begunSince)
      if (completed + failed + begun !== 0 || longest > 0) views.push({ at: second, completed, failed, mean: begun === 0 ? null : waited / begun, longest })
    }
    return views.reverse()
  }

  #clock (): number {
    const now = Date.now()
    const ms = now - this.#begunAt
    // The clock may be set back.
    if (ms >= 1_000 || ms < 0) this.#turn(Math.floor(now / 1_000))
    return now
  }

  #turn (at: number): void {
    const { ledger } = this.#parts
    const second = this.#second
    second.completed = ledger.count(COMPLETED) - this.#completed
    second.failed = ledger.count(FAILED) - this.#failed
    this.#seconds.push(second)
    while (this.#seconds.length !== 0 && this.#seconds[0]!.at <= at - KEPT_SECONDS) this.#seconds.shift()
    this.#second = this.#begin(at)
  }

  #begin (at: number): Second {
    const { ledger } = this.#parts
    this.#completed = ledger.count(COMPLETED)
    this.#failed = ledger.count(FAILED)
    this.#begunAt = at * 1_000
    return { at, completed: 0, failed: 0, begun: 0, waited: 0, longest: 0, oldest: Infinity }
  }
}
