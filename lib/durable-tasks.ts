import type { Outcome } from './outcome'
import type { RequestTasks } from './request-tasks'
import { handOver } from './store'
import { COLLECTING, FAILED, type Task } from './task'

/** Tasks on their way to the backend. */
interface Way {
  readonly tasks: Task[]
  /** Rejects when they have not arrived; then they are collected again. */
  readonly end: Promise<void>
}

/**
 * The tasks of one request that go to the backend. They are kept apart from the others, because they are stored before
 * the reply is sent, all at once, and have no place in the request's line.
 */
export class DurableTasks {
  readonly #request: RequestTasks
  #collected: Task[] = []
  #ways: Way[] = []
  /** Why the reply has become a 503. Its error page does not try, and wait, once more. */
  #refused: Error | null = null
  /** Why tasks were lost that somebody may still ask for by `flush`. */
  #lost: Error | null = null
  /** Those that were added before the request failed, once it has. */
  #beforeError: ReadonlySet<Task> | null = null

  constructor (request: RequestTasks) {
    this.#request = request
  }

  /** Whether there is something that a reply would have to wait for. */
  get waiting (): boolean {
    return this.#collected.length !== 0 || this.#ways.length !== 0
  }

  * tasks (): Generator<Task> {
    for (const way of this.#ways) yield * way.tasks
    yield * this.#collected
  }

  add (task: Task): void {
    this.#collected.push(task)
  }

  /** The request has failed: what is collected so far was added before that. */
  fail (): void {
    this.#beforeError = new Set(this.tasks())
  }

  /**
   * Stores what the request's outcome, as it stands, lets run; drops the rest.
   * @throws FST_BGT_STORE_FAILED (as a rejection): then they are collected, as they were before
   */
  store (outcome: Outcome): Promise<void> {
    // What the handler has begun to store, and did not wait for.
    return this.#ways.length === 0 ? this.#storeCollected(outcome) : this.#arrivals().then(() => this.store(outcome))
  }

  #storeCollected (outcome: Outcome): Promise<void> {
    const tasks = this.#take((task, beforeError) => this.#request.admits(task, outcome, beforeError))
    if (this.#refused === null) return this.#send(tasks, true)
    this.#fail(tasks, this.#refused)
    return Promise.resolve()
  }

  /**
   * Stores at once the tasks that do not depend on the outcome, and waits for those that are on their way.
   * @throws FST_BGT_STORE_FAILED
   */
  async flush (): Promise<void> {
    // Nothing may come between the last look and the take: who is second has to see what the first one has sent.
    while (this.#ways.length !== 0) await this.#arrivals()
    await this.#storeReleasable()
    const lost = this.#lost
    this.#lost = null
    if (lost !== null) throw lost
  }

  /** Waits for what is on its way now, whether it arrives or not. */
  #arrivals (): Promise<unknown> {
    return Promise.allSettled(this.#ways.map(({ end }) => end))
  }

  #storeReleasable (): Promise<void> {
    const others: Task[] = []
    const tasks = this.#take((task, beforeError) => {
      if (!beforeError && this.#request.isReleasable(task)) return true
      others.push(task)
      return false
    })
    this.#collected.push(...others)
    return this.#send(tasks, false)
  }

  /** Stores at once, for a request that is released. What fails is tried once more with the reply, if that is to come. */
  storeNow (): void {
    this.#storeReleasable().catch(error => { if (this.#request.answered) this.#fail(this.#take(() => true), error) })
  }

  /** Stores what is left when the response has gone: nobody can be told any more but the log. */
  storeLate (outcome: Outcome): void {
    // What is added after the error page has a try of its own.
    this.#refused = null
    if (this.waiting) this.store(outcome).catch(error => this.#fail(this.#take(() => true), error))
  }

  #take (admits: (task: Task, beforeError: boolean) => boolean): Task[] {
    const collected = this.#collected
    this.#collected = []
    return collected.filter(task => task.status === COLLECTING && admits(task, this.#beforeError?.has(task) ?? false))
  }

  /** @param reply whether the reply waits for it */
  #send (tasks: Task[], reply: boolean): Promise<void> {
    if (tasks.length === 0) return Promise.resolve()
    const end = handOver(tasks, this.#request.runtime).then(() => this.#leave(way), error => {
      this.#leave(way)
      this.#collected.unshift(...tasks.filter(task => task.status === COLLECTING))
      if (reply) this.#refused = error
      throw error
    })
    const way: Way = { tasks, end }
    this.#ways.push(way)
    return end
  }

  #leave (way: Way): void {
    this.#ways = this.#ways.filter(other => other !== way)
  }

  #fail (tasks: Task[], error: Error): void {
    if (tasks.length !== 0) this.#lost = error
    for (const task of tasks) {
      this.#request.runtime.report.failed(task, this.#request, error)
      this.#request.settle(task, FAILED)
    }
  }
}
