import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import { MAX_TIMER } from '../check-options'
import { setDeadline } from '../deadline'
import { received } from '../received'
import type { LogOf } from '../request-log'
import { backoffDelay } from '../task-options'
import { isUnrecoverable } from '../unrecoverable-error'
import type { Deliver, DeliveryEnd, StoredTask } from './backend'
import type { Retention } from './retention'
import type { Connection } from './sqlite-connection'
import { dueIn, type Claim, type Settlement, type TaskTable } from './sqlite-tasks'
import { Troubles } from './troubles'

export interface WorkerOptions {
  concurrency: number
  lockDuration: number
  maxCrashes: number
  /** 0 where no other process can have the file. */
  pollInterval: number
  retain: { completed: Retention, failed: Retention }
}

/** One delivery: held until its end is written down. */
class Held {
  readonly claim: Claim
  readonly controller = new AbortController()
  /** The function has ended, or was given up. */
  ended = false
  /** To another worker. */
  lost = false
  /** What it last said of how far it has come: JSON. */
  progress: string | null = null
  /** That waits to be written. */
  reporting = false

  constructor (claim: Claim) {
    this.claim = claim
  }
}

/** Milliseconds after which something that the file has refused is tried again. */
const RETRY_DELAY = 1_000

/** Milliseconds after a task has settled, until old ones are looked for. */
const PRUNE_DELAY = 1_000

/**
 * Takes tasks out of the table, and writes down how they end. It sleeps until the next task is due or the lease of
 * another worker ends, and is woken by what this process stores; only what other processes store it has to look for.
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
  /** The deliveries under way, until their end is written down. */
  readonly #runs = new Set<Promise<void>>()
  #running = 0
  #looking = false
  #again = false
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
    const { pollInterval } = this.#options
    if (pollInterval !== 0) this.#pollTimer = setInterval(() => this.#poll(), pollInterval)
    this.#renewIn(this.#renewInterval)
    this.#pruneLater()
    this.wake()
  }

  /** To be called when there may be something to do. */
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
        this.#wakeIn(RETRY_DELAY)
      }
    }
    this.#looking = false
  }

  async #takeWhatIsDue (): Promise<void> {
    const next = await this.#connection.read(() => this.#table.next(this.#heldIds()))
    const due = this.#running < this.#options.concurrency ? next.due : Infinity
    const ms = Math.min(due, next.lease) - Date.now()
    if (ms > 0) this.#wakeIn(ms)
    else await this.#take()
  }

  #wakeIn (ms: number): void {
    if (ms !== Infinity) this.#wakeTimer = setTimeout(() => this.wake(), Math.min(ms, MAX_TIMER))
  }

  async #take (): Promise<void> {
    const { concurrency, lockDuration, maxCrashes } = this.#options
    const error = toJson({ message: `the background task has failed: more than ${maxCrashes} workers went away with it` })
    const { claims, released, failed } = await this.#connection.write(() => {
      const now = Date.now()
      const limit = this.#paused ? 0 : concurrency - this.#running
      return this.#table.take({ owner: this.#owner, now, leaseUntil: Math.ceil(now + lockDuration), limit, held: this.#heldIds(), maxCrashes, error: error as string })
    })
    this.#again = true
    for (const task of released) this.#logOf(task.requestId).warn({ task: shown(task) }, 'SQLite: a worker went away with a background task, which is handed out again')
    for (const task of failed) this.#logOf(task.requestId).error({ task: shown(task) }, 'background task failed: too many workers went away with it')
    for (const claim of claims) {
      const run = this.#run(new Held(claim)).finally(() => this.#runs.delete(run))
      this.#runs.add(run)
    }
  }

  async #run (held: Held): Promise<void> {
    const { claim: { task, attempts }, controller: { signal } } = held
    this.#held.add(held)
    this.#running++
    const end = await this.#deliver({ task, attempt: attempts + 1, signal, progress: value => this.#progress(held, value) })
    held.ended = true
    this.#running--
    const settled = this.#settle(held, end)
    // The place it leaves is filled in the same transaction.
    this.wake()
    await settled
    this.#held.delete(held)
    // It may be due again.
    this.wake()
    this.#pruneLater()
  }

  #progress (held: Held, value: unknown): void {
    const { task, delivery } = held.claim
    const failed = (err: unknown) => {
      this.#logOf(task.requestId).warn({ err, task: shown(task) }, 'SQLite: the progress of a background task could not be stored')
    }
    try {
      held.progress = toJson(value)
    } catch (error) {
      return failed(error)
    }
    // One write for all that is said in the meantime.
    if (held.reporting) return
    held.reporting = true
    this.#connection.write(() => {
      held.reporting = false
      this.#table.progress(task.id, delivery, held.progress)
    }).catch(failed)
  }

  /** What cannot be written is tried again: while it is held, no other worker runs it once more. */
  async #settle (held: Held, end: DeliveryEnd): Promise<void> {
    const { task, delivery } = held.claim
    const settlement = this.#settlementOf(held.claim, end)
    while (!this.#closed) {
      try {
        return await this.#connection.write(() => this.#table.settle(task.id, delivery, Date.now(), settlement))
      } catch (error) {
        this.#failed(error)
        await new Promise(resolve => { setTimeout(resolve, RETRY_DELAY).unref() })
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

  /** The work is done, also where what it returns cannot be kept: it is not done again for that. */
  #resultOf (task: StoredTask, result: unknown): string | null {
    try {
      return toJson(result)
    } catch (err) {
      this.#logOf(task.requestId).warn({ err, task: shown(task) }, 'SQLite: the result of a background task could not be stored')
      return null
    }
  }

  /** Tells a task to stop that runs here. */
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

  /** In ms. Two renewals may come too late before the lease is over. */
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
      next = Math.min(next, RETRY_DELAY)
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
      this.#logOf(task.requestId).warn({ task: shown(task) }, 'SQLite: a background task was taken over by another worker, since this one gave no sign of life')
      held.lost = true
      held.controller.abort()
    }
  }

  #heldIds (): string {
    return JSON.stringify(Array.from(this.#held, ({ claim }) => claim.task.id))
  }

  #pruneLater (): void {
    if (this.#closed) return
    this.#pruneTimer ??= setTimeout(() => this.#prune(), PRUNE_DELAY).unref()
  }

  #prune (): void {
    this.#pruneTimer = undefined
    // One after the other: two at once would hold the thread for twice as long.
    this.#pruning = this.#pruning.then(() => this.#pruneAll()).catch(this.#failed)
  }

  /** In as many transactions as it takes, each of which holds the thread for a moment. */
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

  /** Waits, for so many ms, until what runs here has ended and that is written down. */
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

/** A task as log lines show it. */
function shown ({ id, label }: StoredTask): { id: string, name: string } {
  return { id, name: label }
}

/** @throws what JSON does not take */
function toJson (value: unknown): string | null {
  return JSON.stringify(value) ?? null
}

/** Anything can be thrown, and reading it may fail. */
function errorText (error: unknown): string {
  try {
    const { message, stack } = error instanceof Error ? error : new Error(received(error))
    return JSON.stringify({ message: String(message), stack })
  } catch {
    return JSON.stringify({ message: 'an error that cannot be read' })
  }
}
