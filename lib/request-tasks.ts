import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Socket } from 'node:net'
import { createTask, type Add } from './add'
import type { DiBridge } from './di-scope'
import { addChannel, publishAdd } from './diagnostics'
import { DurableTasks } from './durable-tasks'
import { Line } from './line'
import { runsOn, type Outcome } from './outcome'
import { received } from './received'
import { lateAddWarning } from './report'
import type { Runtime } from './runtime'
import type { ScopeLease } from './scope-lease'
import { isDurable } from './store'
import { COLLECTING, FAILED, REPLACED, RUNNING, type Task, type TaskHandle } from './task'
import { watchExchange } from './trigger'

/** The collector of one request: `request.backgroundTasks`. */
export interface BackgroundTasks extends Add {
  /**
   * Starts the tasks now, and those added later at once, without waiting for the response: for sockets and event
   * streams that stay open for hours. Tasks that run on `failure` or by a predicate still wait for the outcome.
   */
  release (): void
  /**
   * Stores now those of the request's tasks that go to a backend, instead of with the reply, and resolves when it has
   * them. Tasks that run on `failure` or by a predicate still wait for the outcome.
   * @throws FST_BGT_STORE_FAILED (as a rejection)
   */
  flush (): Promise<void>
}

/**
 * Collects a request's tasks until its outcome is known, then is the line they run in.
 *
 * A task that is collected waits in a list of its own; with the outcome, `start` takes it into the line or drops it.
 */
export class RequestTasks extends Line implements BackgroundTasks {
  declare readonly request: FastifyRequest
  readonly reply: FastifyReply
  #firstCollected: Task | null = null
  #lastCollected: Task | null = null
  #keys: Map<string, Task> | null = null
  /** What reached `onError` first. */
  error: Error | null = null
  /** The last task collected before that error. */
  #lastBeforeError: Task | null = null
  #released = false
  /** How the request ended, once that is known and the tasks have started. */
  outcome: Outcome | null = null
  #watched = false
  /** The trigger has seen the end of the exchange; the handler may still be at work. */
  over = false
  /** With that: the response had not gone out whole. */
  aborted = false
  /** Set by the trigger while it waits for the handler: to be called with what that returns. */
  onHandled: ((result: unknown) => void) | null = null
  /** Set by the trigger while the request waits for its turn on a pipelined connection. */
  socket: Socket | null = null
  /** Those of its tasks that go to the backend. */
  durable: DurableTasks | null = null
  /** Set while the request's tasks keep the DI scope. */
  #lease: ScopeLease | null = null

  constructor (runtime: Runtime, request: FastifyRequest, reply: FastifyReply) {
    super(runtime, request)
    this.reply = reply
  }

  add (first: unknown, ...args: unknown[]): TaskHandle {
    const { ledger, runner, di } = this.runtime
    const task = createTask(this, first, args)
    ledger.admit()
    if (this.#watched && this.outcome !== null && this.unsettled === 0) lateAddWarning(task.name)
    ledger.accept(task, this)
    if (addChannel.hasSubscribers) {
      publishAdd(task, this)
      // A subscriber has called it off.
      if (task.isSettled) {
        this.#watchOnce()
        return task
      }
    }
    if (this.#lease === null && di !== null) this.#lease = this.leaseScope(di)
    if (task.spec !== null) {
      if (task.spec.key !== null) this.#replace(task.spec.key, task)
      if (isDurable(task, this.runtime)) {
        this.#collectDurable(task)
        return task
      }
    }
    if (this.outcome !== null) {
      this.#judge(task, this.outcome, false)
      runner.enqueue(this)
    } else if (this.#released && this.isReleasable(task)) {
      this.join(task)
      runner.enqueue(this)
    } else {
      this.#collect(task)
    }
    this.#watchOnce()
    return task
  }

  #watchOnce (): void {
    if (this.#watched) return
    this.#watched = true
    this.watch()
  }

  #collectDurable (task: Task): void {
    this.durable ??= new DurableTasks(this)
    this.durable.add(task)
    if (this.outcome !== null) this.durable.storeLate(this.outcome)
    else if (this.#released) this.durable.storeNow()
    this.#watchOnce()
  }

  async flush (): Promise<void> {
    await this.durable?.flush()
  }

  protected leaseScope (di: DiBridge): ScopeLease | null {
    return di.lease(this)
  }

  protected watch (): void {
    watchExchange(this)
  }

  #collect (task: Task): void {
    if (this.#lastCollected === null) this.#firstCollected = task
    else this.#lastCollected.next = task
    this.#lastCollected = task
  }

  /** The last add with a key wins; the task that had it before leaves, unless it has started. */
  #replace (key: string, task: Task): void {
    this.#keys ??= new Map()
    const earlier = this.#keys.get(key)
    if (earlier !== undefined && earlier.status < RUNNING && earlier.attempts === 0) {
      this.runtime.report.replaced(earlier, this, task)
      this.settle(earlier, REPLACED)
    }
    this.#keys.set(key, task)
  }

  release (): void {
    if (this.outcome !== null || this.#released) return
    this.#released = true
    let beforeError = this.#lastBeforeError !== null
    let task = this.#firstCollected
    this.#firstCollected = this.#lastCollected = null
    while (task !== null) {
      const next: Task | null = task.next
      task.next = null
      if (task.status === COLLECTING) {
        if (beforeError || !this.isReleasable(task)) this.#collect(task)
        else this.join(task)
      }
      if (task === this.#lastBeforeError) {
        beforeError = false
        this.#lastBeforeError = this.#lastCollected
      }
      task = next
    }
    this.durable?.storeNow()
    this.runtime.runner.enqueue(this)
  }

  /** Notes what reached `onError`, and with it that the tasks collected so far were added before it. */
  fail (error: Error | null | undefined): void {
    if (this.error !== null) return
    // Anything can be thrown, but the outcome knows no other sign of a failure.
    this.error = error ?? new Error(`${error} was thrown`)
    this.#lastBeforeError = this.#lastCollected
    this.durable?.fail()
    // An error answers the request: a handler that has not begun never will.
    this.onHandled?.(undefined)
  }

  /** The end of the request, as far as its tasks are concerned: drops those that the outcome excludes, starts the others. */
  start (outcome: Outcome): void {
    this.outcome = outcome
    let beforeError = this.#lastBeforeError !== null
    let task = this.#firstCollected
    this.#firstCollected = this.#lastCollected = null
    while (task !== null) {
      const next: Task | null = task.next
      task.next = null
      if (task.status === COLLECTING) this.#judge(task, outcome, beforeError)
      if (task === this.#lastBeforeError) beforeError = false
      task = next
    }
    this.#lastBeforeError = null
    this.durable?.storeLate(outcome)
    if (this.unsettled === 0) this.settled()
    else this.runtime.runner.enqueue(this)
    // Tasks that are all delayed into the future hold nobody any more.
    this.runtime.ledger.notify()
  }

  #judge (task: Task, outcome: Outcome, beforeError: boolean): void {
    if (this.admits(task, outcome, beforeError)) this.join(task)
  }

  /** Whether the outcome lets a task run; settles it if not. */
  admits (task: Task, outcome: Outcome, beforeError: boolean): boolean {
    try {
      if (task.spec === null ? !beforeError : runsOn(task.spec.runOn, outcome, beforeError)) return true
    } catch (error) {
      // Neither running nor dropping it would be what the predicate meant: it fails, where everybody sees it.
      this.runtime.report.failed(task, this, error)
      this.settle(task, FAILED)
      return false
    }
    this.drop(task, `runOn: ${received(task.spec?.runOn ?? 'success')}`)
    return false
  }

  /** Whether a task may start before the outcome is known. */
  isReleasable (task: Task): boolean {
    return task.spec === null || task.spec.runOn === 'success' || task.spec.runOn === 'always'
  }

  /** Somebody has answered, or nobody can any more: the response is on its way or over. */
  get answered (): boolean {
    return this.over || this.reply.raw.headersSent || this.reply.raw.writableEnded
  }

  get released (): boolean {
    return this.#released
  }

  override get door (): Add {
    return this
  }

  override * tasks (): Generator<Task> {
    yield * super.tasks()
    if (this.durable !== null) yield * this.durable.tasks()
    for (let task = this.#firstCollected; task !== null; task = task.next) {
      if (task.status === COLLECTING) yield task
    }
  }

  override settled (): void {
    if (this.outcome === null) return
    // A function that takes no notice of its signal may still use what the scope holds.
    if (this.#lease !== null && this.abandoned === 0) {
      this.#lease.end(this.outcome.aborted)
      this.#lease = null
    }
    super.settled()
  }
}
