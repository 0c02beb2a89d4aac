import { FST_BGT_STORE_FAILED } from './errors'
import type { Outcome } from './outcome'
import type { RequestTasks } from './request-tasks'
import { handOver } from './store'
import { COLLECTING, FAILED, type Task } from './task'

/**
 * The tasks of one request that go to the backend. They are kept apart from the others, because they are stored before
 * the reply is sent, all at once, and have no place in the request's line.
 */
export class DurableTasks {
  readonly #request: RequestTasks
  #collected: Task[] = []
  /** Tasks on their way to the backend. */
  #underWay: Task[] = []
  /** How many of those collected were added before the request failed. */
  #beforeError = 0

  constructor (request: RequestTasks) {
    this.#request = request
  }

  /** Whether there is something that a reply would have to wait for. */
  get waiting (): boolean {
    return this.#collected.length !== 0
  }

  * tasks (): Generator<Task> {
    yield * this.#underWay
    yield * this.#collected
  }

  add (task: Task): void {
    this.#collected.push(task)
  }

  /** The request has failed: what is collected so far was added before that. */
  fail (): void {
    this.#beforeError = this.#collected.length
  }

  /**
   * Stores what the request's outcome, as it stands, lets run; drops the rest.
   * @throws FST_BGT_STORE_FAILED: then they are collected, as they were before
   */
  async store (outcome: Outcome): Promise<void> {
    const tasks = this.#take((task, beforeError) => this.#request.admits(task, outcome, beforeError))
    // The error page of a request whose tasks could not be stored does not try, and wait, once more.
    if (outcome.error instanceof FST_BGT_STORE_FAILED) this.#fail(tasks, outcome.error)
    else await this.#handOver(tasks)
  }

  /**
   * Stores at once the tasks that do not depend on the outcome.
   * @throws FST_BGT_STORE_FAILED
   */
  async flush (): Promise<void> {
    const others: Task[] = []
    const tasks = this.#take((task, beforeError) => {
      if (!beforeError && this.#request.isReleasable(task)) return true
      others.push(task)
      return false
    })
    this.#collected.push(...others)
    await this.#handOver(tasks)
  }

  /** Stores what is left when the response has gone: nobody can be told any more but the log. */
  storeLate (outcome: Outcome | null): void {
    const stored = outcome === null ? this.flush() : this.store(outcome)
    stored.catch(error => this.#fail(this.#take(() => true), error))
  }

  #take (admits: (task: Task, beforeError: boolean) => boolean): Task[] {
    const collected = this.#collected
    const beforeError = this.#beforeError
    this.#collected = []
    this.#beforeError = 0
    return collected.filter((task, index) => task.status === COLLECTING && admits(task, index < beforeError))
  }

  async #handOver (tasks: Task[]): Promise<void> {
    if (tasks.length === 0) return
    this.#underWay.push(...tasks)
    try {
      await handOver(tasks, this.#request.runtime)
    } catch (error) {
      this.#collected.unshift(...tasks.filter(task => task.status === COLLECTING))
      throw error
    } finally {
      this.#underWay = this.#underWay.filter(task => !tasks.includes(task))
    }
  }

  #fail (tasks: Task[], error: Error): void {
    for (const task of tasks) {
      this.#request.runtime.report.failed(task, this.#request, error)
      this.#request.settle(task, FAILED)
    }
  }
}
