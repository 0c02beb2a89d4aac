import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, DeliveryEnd, LogOf, StoredTask } from '../../../types/backend'
import { backoffDelay } from '../../shared/backoff'
import { MAX_TIMER_MS } from '../../shared/check-options'
import { setDeadline } from '../../shared/deadline'
import { toJson } from '../../shared/json'
import { received } from '../../shared/show'
import { clearInterval, clearTimeout, now, setInterval, setTimeout } from '../../shared/timers'
import { isUnrecoverable } from '../../shared/unrecoverable-error'
import { codeOf } from '../error-code'
import type { Intake } from '../intake'
import type { Retention } from '../retention'
import { loggedTask } from '../stored-task'
import { Troubles } from '../troubles'
import type { Connection } from './connection'
import { type Claim, dueIn, type Settlement, type TaskTable } from './table'

export interface WorkerOptions {
  intake: Intake
  /** The most due tasks that are read to find tasks which can begin here. */
  lookAhead: number
  lockDuration: number
  maxCrashes: number
  /** Milliseconds; 0 where no other process can have the file. */
  pollInterval: number
  retain: { completed: Retention, failed: Retention }
}

/** One delivery. Held until its end is written. */
class Held {
  readonly claim: Claim
  readonly controller = new AbortController()
  /** Whether the attempt has ended, or was abandoned. */
  ended = false
  /** Whether another worker has the task by now. */
  lost = false
  /** The last progress, as JSON. */
  progress: string | null = null
  /** Whether the progress waits to be written. */
  reporting = false

  constructor (claim: Claim) {
    this.claim = claim
  }
}

/** Milliseconds before a write that the file refused is tried again. */
const RETRY_DELAY_MS = 1_000

/** Milliseconds between two looks at what is due next, while all places are taken: a look costs as much as ten tasks. */
const LOOK_INTERVAL_MS = 1_000

/** Milliseconds from the end of a task to the search for settled tasks that are too old. */
const PRUNE_DELAY_MS = 1_000

/**
 * Takes tasks out of the table, runs them, and writes their ends. Sleeps until a task is due or another worker's lease ends; this process
 * wakes it when it stores tasks, and it polls for those of other processes. Made when the backend is to work, stopped by its close.
 */
export class SqliteWorker {
  readonly #connection: Connection
  readonly #table: TaskTable
  readonly #options: WorkerOptions
  readonly #log: FastifyBaseLogger
  readonly #logOf: LogOf
  readonly #deliver: Deliver
  readonly #owner = randomUUID()
  readonly #held = new Set<Held>()
  /** The deliveries under way, until their ends are written. */
  readonly #runs = new Set<Promise<void>>()
  #looking = false
  #again = false
  /** Whether the last claim took all places, so that more tasks may be due. */
  #more = false
  /** The latest time of the next look at what is due, in ms of `now()`. */
  #lookAt = 0
  #paused = false
  #closed = false
  #version = 0
  #wakeTimer: NodeJS.Timeout | undefined
  #pollTimer: NodeJS.Timeout | undefined
  #renewTimer: NodeJS.Timeout | undefined
  #pruneTimer: NodeJS.Timeout | undefined
  #pruning: Promise<void> = Promise.resolve()
  readonly #troubles = new Troubles()

  constructor (connection: Connection, table: TaskTable, options: WorkerOptions, log: FastifyBaseLogger, logOf: LogOf, deliver: Deliver) {
    this.#connection = connection
    this.#table = table
    this.#options = options
    this.#log = log
    this.#logOf = logOf
    this.#deliver = deliver
  }

  start (): void {
    this.#renewIn(this.#renewInterval)
    this.#pruneLater()
    this.#lookOut()
  }

  #lookOut (): void {
    const { pollInterval } = this.#options
    if (pollInterval !== 0) this.#pollTimer = setInterval(() => this.#poll(), pollInterval)
    this.wake()
  }

  /** Call when there may be something to do. */
  wake (): void {
    this.#again = true
    if (!this.#looking) this.#look()
  }

  async #look (): Promise<void> {
    this.#looking = true
    while (this.#again && !this.#paused) {
      this.#again = false
      clearTimeout(this.#wakeTimer)
      try {
        await this.#takeWhatIsDue()
      } catch (error) {
        this.#failed(error)
        this.#wakeIn(RETRY_DELAY_MS)
      }
    }
    this.#looking = false
  }

  async #takeWhatIsDue (): Promise<void> {
    if (this.#more && now() < this.#lookAt) return this.#takeMore()
    const next = await this.#connection.read(() => this.#table.next(this.#heldIds()))
    this.#lookAt = now() + LOOK_INTERVAL_MS
    const due = this.#options.intake.places > 0 ? next.due : Infinity
    const time = Date.now()
    const ms = Math.min(due, next.lease) - time
    if (ms > 0) this.#wakeIn(ms)
    else if (await this.#take(next.lease <= time)) this.#again = true
    // Due tasks that cannot begin here now: the end of a task that runs here wakes the worker, too.
    else this.#wakeIn(Math.min(await this.#connection.read(() => this.#table.later(time)), next.lease) - time)
  }

  /** Takes tasks for the places that are free. */
  async #takeMore (): Promise<void> {
    if (this.#options.intake.places <= 0) return this.#wakeIn(this.#lookAt - now())
    await this.#take(false)
    this.#again = true
  }

  #wakeIn (ms: number): void {
    if (ms !== Infinity) this.#wakeTimer = setTimeout(() => this.wake(), Math.min(ms, MAX_TIMER_MS))
  }

  /**
   * Takes tasks. Returns `false` if there was none to take.
   * @param leases whether leases of other workers may have ended
   */
  async #take (leases: boolean): Promise<boolean> {
    const { intake, lockDuration, lookAhead, maxCrashes } = this.#options
    const { claims, released, failed, unusable } = await this.#connection.write(() => {
      const now = Date.now()
      const gone = leases
        ? this.#table.takeFromGone({ now, held: this.#heldIds(), maxCrashes, error: JSON.stringify({ message: `the background task has failed: more than ${maxCrashes} workers went away with it` }) })
        : { released: [], failed: [] }
      const look = this.#paused || intake.places <= 0 ? 0 : intake.places + lookAhead
      return { ...gone, ...this.#table.take({ owner: this.#owner, now, leaseUntil: Math.ceil(now + lockDuration), intake: intake.copy(), look }) }
    })
    for (const task of released) this.#logOf(task.requestId).warn({ task: loggedTask(task) }, 'SQLite: a worker went away with a background task, which is handed out again')
    for (const task of failed) this.#logOf(task.requestId).error({ task: loggedTask(task) }, 'background task failed: too many workers went away with it')
    for (const { task, reason } of unusable) this.#logOf(task.requestId).error({ err: new Error(reason), task: loggedTask(task) }, 'background task failed: what is stored of it cannot be used')
    for (const claim of claims) {
      const run = this.#run(new Held(claim)).finally(() => this.#runs.delete(run))
      this.#runs.add(run)
    }
    this.#more = claims.length !== 0 && intake.places <= 0
    return claims.length + released.length + failed.length + unusable.length !== 0
  }

  async #run (held: Held): Promise<void> {
    const { claim: { task, attempts, crashes }, controller: { signal } } = held
    const { intake } = this.#options
    const taken = { name: task.name, crashes }
    this.#held.add(held)
    intake.take(taken)
    const end = await this.#deliver({ task, attempt: attempts + 1, signal, progress: value => this.#progress(held, value) })
    held.ended = true
    intake.release(taken)
    const settled = this.#settle(held, end)
    // The same transaction takes a task for the place that becomes free.
    this.wake()
    await settled
    this.#held.delete(held)
    // The task may be due again.
    this.wake()
    this.#pruneLater()
  }

  #progress (held: Held, value: unknown): void {
    const { task, delivery } = held.claim
    const failed = (err: unknown) => {
      this.#logOf(task.requestId).warn({ err, task: loggedTask(task) }, 'SQLite: the progress of a background task could not be stored')
    }
    try {
      held.progress = toJson(value)
    } catch (error) {
      return failed(error)
    }
    // One write for all values that come until then.
    if (held.reporting) return
    held.reporting = true
    this.#connection.write(() => {
      held.reporting = false
      this.#table.progress(task.id, delivery, held.progress)
    }).catch(failed)
  }

  /** Writes the end of a delivery, again and again if need be: while it is held, no other worker runs the task. */
  async #settle (held: Held, end: DeliveryEnd): Promise<void> {
    const { task, delivery } = held.claim
    const settlement = this.#settlementOf(held.claim, end)
    while (!this.#closed) {
      try {
        return await this.#connection.write(() => this.#table.settle(task.id, delivery, Date.now(), settlement))
      } catch (error) {
        this.#failed(error)
        await new Promise(resolve => { setTimeout(resolve, RETRY_DELAY_MS).unref() })
      }
    }
  }

  #settlementOf ({ task, attempts: before }: Claim, end: DeliveryEnd): Settlement {
    const now = Date.now()
    const attempts = before + 1
    const ended = { due: now, attempts, result: null, error: null }
    switch (end.state) {
      case 'completed': return { ...ended, state: 'completed', result: this.#resultOf(task, end.result) }
      case 'cancelled': return { ...ended, state: 'cancelled' }
      case 'failed': {
        const error = errorText(end.error)
        if (attempts >= task.attempts || isUnrecoverable(end.error)) return { ...ended, state: 'failed', error }
        const delay = task.backoff === null ? 0 : backoffDelay(task.backoff, attempts)
        return { ...ended, state: 'pending', due: dueIn(delay, now), error }
      }
    }
    return { ...ended, state: 'pending', due: dueIn(end.delay, now), attempts: before }
  }

  /** The end of a completed task. A result that cannot be stored is left out: the work is not done again for it. */
  #resultOf (task: StoredTask, result: unknown): string | null {
    try {
      return toJson(result)
    } catch (err) {
      this.#logOf(task.requestId).warn({ err, task: loggedTask(task) }, 'SQLite: the result of a background task could not be stored')
      return null
    }
  }

  /** Aborts the signal of a task that runs here. */
  cancel (id: string): boolean {
    for (const { claim, controller, ended, lost } of this.#held) {
      if (claim.task.id !== id || ended || lost) continue
      controller.abort()
      return true
    }
    return false
  }

  #poll (): void {
    this.#connection.read(() => this.#table.version()).then(version => {
      if (version === this.#version) return
      this.#version = version
      this.wake()
    }, this.#failed)
  }

  /** Milliseconds between two renewals of leases: two may be late before a lease ends. */
  get #renewInterval (): number {
    return this.#options.lockDuration / 3
  }

  #renewIn (ms: number): void {
    if (!this.#closed) this.#renewTimer = setTimeout(() => this.#renew(), ms)
  }

  async #renew (): Promise<void> {
    let next = this.#renewInterval
    try {
      if (this.#held.size !== 0) await this.#renewLeases()
    } catch (error) {
      this.#failed(error)
      next = Math.min(next, RETRY_DELAY_MS)
    }
    this.#renewIn(next)
  }

  async #renewLeases (): Promise<void> {
    const lost = await this.#connection.write(() => {
      const held = [...this.#held].filter(({ ended, lost }) => !ended && !lost)
      const renewed = this.#table.renew(this.#owner, this.#heldIds(), Math.ceil(Date.now() + this.#options.lockDuration))
      return held.filter(({ claim: { task, delivery } }) => renewed.get(task.id) !== delivery)
    })
    for (const held of lost) {
      const { task } = held.claim
      this.#logOf(task.requestId).warn({ task: loggedTask(task) }, 'SQLite: a background task was taken over by another worker, since this one gave no sign of life')
      held.lost = true
      held.controller.abort()
    }
  }

  #heldIds (): string {
    return JSON.stringify(Array.from(this.#held, ({ claim }) => claim.task.id))
  }

  #pruneLater (): void {
    if (this.#closed) return
    this.#pruneTimer ??= setTimeout(() => this.#prune(), PRUNE_DELAY_MS).unref()
  }

  #prune (): void {
    this.#pruneTimer = undefined
    // One after the other, as each holds the thread.
    this.#pruning = this.#pruning.then(() => this.#pruneAll()).catch(this.#failed)
  }

  /** Removes tasks in several transactions, each of which holds the thread for a moment. */
  async #pruneAll (): Promise<void> {
    const { completed, failed } = this.#options.retain
    const now = Date.now()
    let surplus = await this.#connection.read(() => [
      this.#table.surplus('completed', now - completed.age * 1_000, completed.count),
      this.#table.surplus('failed', now - failed.age * 1_000, failed.count),
      this.#table.surplus('cancelled', now - failed.age * 1_000, failed.count)
    ])
    while (surplus.length !== 0 && !this.#closed) {
      surplus = await this.#connection.write(() => surplus.filter(some => this.#table.prune(some)))
    }
  }

  pause (): void {
    this.#paused = true
    clearTimeout(this.#wakeTimer)
    clearInterval(this.#pollTimer)
  }

  resume (): void {
    if (!this.#paused || this.#closed) return
    this.#paused = false
    this.#lookOut()
  }

  /** Waits, for so many ms at most, until the deliveries have ended and their ends are written. */
  async close (ms: number): Promise<void> {
    this.pause()
    let clearDeadline!: () => void
    await Promise.race([Promise.all(this.#runs), new Promise<void>(resolve => { clearDeadline = setDeadline(ms, resolve) })])
    clearDeadline()
    this.#closed = true
    clearTimeout(this.#renewTimer)
    clearTimeout(this.#pruneTimer)
  }

  readonly #failed = (err: unknown): void => {
    if (this.#closed || !this.#troubles.isNew((err as Error).message)) return
    this.#log.warn({ err }, 'SQLite: the file could not be read or written')
  }
}

/** The error to store for a thrown value. Reading it may throw. */
function errorText (error: unknown): string {
  try {
    const { message, stack } = error instanceof Error ? error : new Error(received(error))
    return JSON.stringify({ message: String(message), stack, code: codeOf(error) })
  } catch {
    return JSON.stringify({ message: 'an error that cannot be read' })
  }
}
