import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Add, BackgroundTasks } from '../../types/collector'
import type { Outcome, TaskHandle } from '../../types/task'
import { addChannel, publishAdd } from '../observe/channels'
import { lateAddWarning } from '../observe/report'
import { admits, isReleasable } from '../run/admission'
import { Line } from '../run/line'
import { List } from '../shared/list'
import { DurableTasks } from '../store/durable-tasks'
import type { HandOver } from '../store/hand-over'
import { isFailure } from '../task/run-on'
import type { TaskSpec } from '../task/spec'
import { COLLECTING, RUNNING } from '../task/states'
import type { Task } from '../task/task'
import { addInTransaction } from './add-in-transaction'
import { assertBound } from './bound'
import { createTask } from './create-task'
import type { Exchange, ExchangeListener } from './exchange'
import type { CollectorParts, RequestLine, ScopeLease } from './parts'

/**
 * The collector of one request, and the line of its tasks. Made at the first use of `request.backgroundTasks`. Tasks wait in a list of
 * their own until the outcome is known; then each joins the line, or is dropped.
 */
export class RequestTasks extends Line implements BackgroundTasks, ExchangeListener {
  readonly #parts: CollectorParts
  /** `null` where the collector was made after the exchange had ended. */
  readonly exchange: Exchange | null
  readonly #collected = new List<Task>()
  #hasAdded = false
  #keys: Map<string, Task> | null = null
  /** The first error that reached `onError`. */
  #error: Error | null = null
  /** The request counts as failed: by that error, or by the option `outcome`. */
  #failed = false
  #lastBeforeError: Task | null = null
  released = false
  /** Set once the tasks have started. */
  outcome: Outcome | null = null
  /** The tasks that go to the backend. */
  durable: DurableTasks | null = null
  #lease: ScopeLease | null = null

  constructor (parts: CollectorParts, request: FastifyRequest | null, exchange: Exchange | null) {
    super(parts.engine, request)
    this.#parts = parts
    this.exchange = exchange
  }

  add (first: unknown, ...args: unknown[]): TaskHandle {
    assertBound(this)
    const { engine } = this.#parts
    const { ledger } = engine
    const task = createTask(engine, this, first, args)
    ledger.assertRoom(task.spec === null ? null : this.replacedBy(task.spec))
    if (this.outcome !== null && this.unsettled === 0 && this.#hasAdded) lateAddWarning(task.name)
    ledger.accept(task, this)
    if (addChannel.hasSubscribers) publishAdd(task, this)
    // A subscriber may have cancelled the task.
    if (!task.isSettled) this.#place(task)
    if (!this.#hasAdded) {
      this.#hasAdded = true
      this.exchange?.watch(this)
    }
    return task
  }

  addInTransaction (client: unknown, first: unknown, ...args: unknown[]): Promise<TaskHandle> {
    assertBound(this)
    return addInTransaction(this.#parts, this, client, first, args)
  }

  /** Stores the task, lets it join the line, or collects it. */
  #place (task: Task): void {
    const { engine, handOver, scopeKeeper } = this.#parts
    if (this.#lease === null && scopeKeeper !== null) this.#lease = scopeKeeper.lease(this as unknown as RequestLine)
    if (task.spec !== null && task.spec.key !== null) this.#replace(task.spec.key, task)
    if (handOver !== null && handOver.isDurable(task)) return this.#collectDurable(task, handOver)
    this.#joinOrCollect(task, false)
    if (this.outcome !== null || this.released) engine.runner.enqueue(this)
  }

  /** Lets a task join the line: if the outcome admits it or, before that is known, if the request is released and the task not tied to it. */
  #joinOrCollect (task: Task, beforeError: boolean): void {
    const { engine } = this.#parts
    if (this.outcome !== null) {
      if (admits(engine, task, this, this.outcome, beforeError, true)) engine.join(task, this)
    } else if (this.released && !beforeError && isReleasable(task)) {
      engine.join(task, this)
    } else {
      this.#collected.append(task)
    }
  }

  #collectDurable (task: Task, handOver: HandOver): void {
    this.durable ??= new DurableTasks(this, this.#parts.engine, handOver, this.exchange?.handlerIsWatched ?? false)
    this.durable.add(task)
    if (this.outcome !== null) this.durable.storeLate(this.outcome)
    else if (this.released) this.durable.storeNow()
  }

  async flush (): Promise<void> {
    assertBound(this)
    await this.durable?.flush()
  }

  override replacedBy ({ key }: TaskSpec): Task | null {
    const earlier = key === null ? undefined : this.#keys?.get(key)
    return earlier !== undefined && earlier.status < RUNNING && earlier.attempts === 0 ? earlier : null
  }

  /** The last add with a key wins; the task that had the key leaves, unless it has started. */
  #replace (key: string, task: Task): void {
    const earlier = this.replacedBy(task.spec as TaskSpec)
    if (earlier !== null) this.#parts.engine.replace(earlier, this, task)
    this.#keys ??= new Map()
    this.#keys.set(key, task)
  }

  release (): void {
    assertBound(this)
    if (this.outcome !== null || this.released) return
    this.released = true
    this.#joinCollected()
    this.durable?.storeNow()
    this.#parts.engine.runner.enqueue(this)
  }

  /** Notes an error that reached `onError`: the tasks collected so far were added before it. */
  fail (error: Error | null | undefined): void {
    if (this.#error !== null) return
    // Anything can be thrown, but the outcome knows no other sign of a failure.
    this.#error = error ?? new Error(`${error} was thrown`)
    this.#markFailed()
  }

  #markFailed (): void {
    if (this.#failed) return
    this.#failed = true
    this.#lastBeforeError = this.#collected.last
    this.durable?.fail()
  }

  /** The outcome as it stands, final once the exchange is over. Asks the option `outcome`, where nothing has failed so far. */
  outcomeNow (reply: FastifyReply): Outcome {
    const { settings, report } = this.#parts.engine
    if (settings.outcome !== null && !this.#failed) {
      try {
        if (isFailure(settings.outcome, reply.request, reply)) this.#markFailed()
      } catch (error) {
        report.outcomeFailed(this, error)
      }
    }
    return { statusCode: reply.statusCode, error: this.#error, failed: this.#failed, aborted: (this.exchange as Exchange).aborted }
  }

  /** Drops the tasks that the outcome excludes, starts the others. */
  exchangeEnded (reply: FastifyReply): void {
    const { ledger, runner } = this.#parts.engine
    this.outcome = this.outcomeNow(reply)
    this.#joinCollected()
    this.durable?.storeLate(this.outcome)
    if (this.unsettled === 0) ledger.closeSettled(this)
    else runner.enqueue(this)
    // Tasks that are all delayed into the future hold nothing any more.
    ledger.notify()
  }

  /** Looks at the collected tasks anew: the outcome is known now, or the request released. */
  #joinCollected (): void {
    let beforeError = this.#lastBeforeError !== null
    let task = this.#collected.clear()
    while (task !== null) {
      const { next }: Task = task
      const isLastBeforeError = task === this.#lastBeforeError
      task.next = null
      if (task.status === COLLECTING) this.#joinOrCollect(task, beforeError)
      if (isLastBeforeError) {
        beforeError = false
        this.#lastBeforeError = this.#collected.last
      }
      task = next
    }
  }

  get answered (): boolean {
    return this.exchange === null || this.exchange.answered
  }

  override get collector (): Add {
    return this
  }

  override * tasks (): Generator<Task> {
    yield * super.tasks()
    if (this.durable !== null) yield * this.durable.tasks()
    for (let task = this.#collected.first; task !== null; task = task.next) {
      if (task.status === COLLECTING) yield task
    }
  }

  override onSettled (): boolean {
    if (this.outcome === null) return false
    // A function that ignores its signal may still use what the scope holds.
    if (this.#lease !== null && this.abandoned === 0 && !this.#lease.awaitsHandler()) {
      this.#lease.end(this.outcome.aborted)
      this.#lease = null
    }
    return true
  }
}
