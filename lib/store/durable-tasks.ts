import type { Outcome } from '../../types/task'
import { admits, isReleasable } from '../run/admission'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { eachInGroups } from '../shared/slices'
import { runsOn } from '../task/run-on'
import type { TaskSpec } from '../task/spec'
import { COLLECTING, DROPPED, STORED } from '../task/states'
import type { Task } from '../task/task'
import type { HandOver } from './hand-over'

/** The line of the request whose tasks are stored: its collector. */
export interface AnsweringLine extends Line {
  /** Whether the response is on its way or over. */
  readonly answered: boolean
}

/** Tasks on their way to the backend. */
interface Write {
  readonly tasks: Task[]
  /** Rejects if the backend did not store the tasks; they are collected again then. */
  readonly end: Promise<void>
}

/**
 * The tasks of one request that go to the backend: they are stored together before the reply is sent, and have no place in the
 * request's line. Made by the first such `add`, kept as long as the request.
 */
export class DurableTasks {
  readonly #request: AnsweringLine
  readonly #engine: Engine
  readonly #handOver: HandOver
  #collected: Task[] = []
  #added = 0
  readonly #writes = new Set<Write>()
  /** The error that made the reply a 503. Sending the error page does not try to store, and wait, again. */
  #refused: Error | null = null
  /** The error that lost tasks, for the next `flush`. */
  #lost: Error | null = null
  /** The tasks that were added before the request failed; `null` while it has not. */
  #beforeError: ReadonlySet<Task> | null = null
  /** Tasks stored with the reply, to be cancelled if the reply fails later. */
  #withReply: Task[] = []
  /** The reply that waits for the tasks to be stored. */
  held: { readonly payload: unknown } | null = null
  /** Whether the tasks are stored by a hook of the route, which runs after the hooks of all plugins. */
  readonly storedLast: boolean

  constructor (request: AnsweringLine, engine: Engine, handOver: HandOver, storedLast: boolean) {
    this.#request = request
    this.#engine = engine
    this.#handOver = handOver
    this.storedLast = storedLast
  }

  /** Whether a reply may have to wait for the backend. */
  get waiting (): boolean {
    return this.#collected.length !== 0 || this.#writes.size !== 0 || (this.#beforeError !== null && this.#withReply.length !== 0)
  }

  * tasks (): Generator<Task> {
    for (const write of this.#writes) yield * write.tasks
    yield * this.#collected
  }

  add (task: Task): void {
    task.extra.place = this.#added++
    this.#collected.push(task)
  }

  /** Called when the request fails: notes which tasks were added before. */
  fail (): void {
    this.#beforeError = new Set([...this.tasks(), ...this.#withReply])
  }

  /**
   * Stores the tasks that the present outcome lets run. The others stay collected, and are dropped once the outcome is final.
   * @returns `null` if there is nothing to wait for
   * @throws FST_BGT_STORE_FAILED (as a rejection): the tasks are collected, as before
   */
  store (outcome: Outcome, final = false): Promise<unknown> | null {
    // The handler has called `flush` without `await`.
    if (this.#writes.size !== 0) return this.#arrivals().then(() => this.store(outcome, final))
    if (!final && this.#forgetDropped()) return Promise.reject(this.#handOver.store.refusal(new Error('the application has closed')))
    const withdrawn = this.#beforeError === null ? null : this.#withdraw(outcome, this.#beforeError)
    let tasks = this.#take((task, beforeError) => admits(this.#engine, task, this.#request, outcome, beforeError, final))
    if (this.#refused !== null) {
      this.#fail(tasks, this.#refused)
      tasks = []
    }
    if (tasks.length === 0) return withdrawn
    this.#withReply = tasks
    const stored = this.#send(tasks, true)
    return withdrawn === null ? stored : Promise.all([stored, withdrawn])
  }

  /** Whether the close has dropped tasks for which a reply would promise a store. Asked once: the error page goes out. */
  #forgetDropped (): boolean {
    if (!this.#engine.ledger.closed) return false
    const { length } = this.#collected
    this.#collected = this.#collected.filter(({ status }) => status !== DROPPED)
    return this.#collected.length !== length
  }

  /** Cancels tasks that were stored with a reply which failed later, unless they run on failure. */
  #withdraw (outcome: Outcome, beforeError: ReadonlySet<Task>): Promise<void> | null {
    const tasks = this.#withReply.filter(task => task.status === STORED && beforeError.has(task) && isRefused(task, outcome))
    this.#withReply = []
    if (tasks.length === 0) return null
    const end = this.#cancelAll(tasks).then(() => { this.#writes.delete(write) })
    const write: Write = { tasks: [], end }
    this.#writes.add(write)
    return end
  }

  async #cancelAll (tasks: Task[]): Promise<void> {
    const { report } = this.#engine
    let failure: { error: unknown } | null = null
    await eachInGroups(tasks, async task => {
      // Another request may have dropped its task because of this one's dedupe id.
      if ((task.spec as TaskSpec).dedupe !== null) return report.staysStoredAfterFailure(task, this.#request, 'it has a dedupe id')
      // After one failed call, do not wait for the server again.
      if (failure !== null) return report.notCancelled(task, this.#request, failure.error)
      try {
        if (!await task.cancel()) report.staysStoredAfterFailure(task, this.#request, this.#handOver.store.whyNotCancelled)
      } catch (error) {
        failure = { error }
        report.notCancelled(task, this.#request, error)
      }
    })
  }

  /**
   * Stores at once the tasks that do not depend on the outcome, and waits for all transfers.
   * @throws FST_BGT_STORE_FAILED
   */
  async flush (): Promise<void> {
    // No `await` between the last check and taking the tasks: a second call must see the write of the first.
    while (this.#writes.size !== 0) await this.#arrivals()
    await this.#storeReleasable()
    const lost = this.#lost
    this.#lost = null
    if (lost !== null) throw lost
  }

  /** Waits for the present transfers, whether they succeed or fail. */
  #arrivals (): Promise<unknown> {
    return Promise.allSettled([...this.#writes].map(({ end }) => end))
  }

  #storeReleasable (): Promise<void> {
    return this.#send(this.#take((task, beforeError) => !beforeError && isReleasable(task)), false)
  }

  /** Stores at once, for a released request. Refused tasks are tried once more with the reply, if it has not gone out. */
  storeNow (): void {
    this.#storeReleasable().catch(error => { if (this.#request.answered) this.#fail(this.#take(() => true), error) })
  }

  /** Stores the rest after the response. A failure can only be logged. */
  storeLate (outcome: Outcome): void {
    // A task that is added after the error page is tried on its own.
    this.#refused = null
    if (this.waiting) this.store(outcome, true)?.catch(error => this.#fail(this.#take(() => true), error))
  }

  /** Removes and returns the admitted tasks; tasks that are neither admitted nor settled stay collected. */
  #take (admits: (task: Task, beforeError: boolean) => boolean): Task[] {
    const collected = this.#collected
    // A `runOn` predicate may call `add`.
    this.#collected = []
    const taken: Task[] = []
    const others: Task[] = []
    for (const task of collected) {
      if (task.status !== COLLECTING) {
        // Kept for `#forgetDropped`.
        if (task.status === DROPPED && this.#engine.ledger.closed) others.push(task)
        continue
      }
      if (admits(task, this.#beforeError?.has(task) ?? false)) taken.push(task)
      else if (!task.isSettled) others.push(task)
    }
    if (others.length !== 0) this.#collected = others.concat(this.#collected)
    // The predicate of one task may have cancelled another.
    return taken.filter(({ isSettled }) => !isSettled)
  }

  /** @param withReply whether the reply waits for the tasks */
  #send (tasks: Task[], withReply: boolean): Promise<void> {
    if (tasks.length === 0) return Promise.resolve()
    const end = this.#handOver.send(tasks, this.#request).then(() => { this.#writes.delete(write) }, error => {
      this.#writes.delete(write)
      // Two writes may come back in another order than they were begun in.
      this.#collected = tasks.filter(({ status }) => status === COLLECTING || status === DROPPED).concat(this.#collected).sort(byPlace)
      if (withReply) this.#refused = error
      throw error
    })
    const write: Write = { tasks, end }
    this.#writes.add(write)
    return end
  }

  #fail (tasks: Task[], error: Error): void {
    if (tasks.length !== 0) this.#lost = error
    for (const task of tasks) this.#engine.fail(task, this.#request, error)
  }
}

function byPlace (one: Task, other: Task): number {
  return one.extra.place - other.extra.place
}

/** Whether the new outcome refuses a task that the earlier one let run. */
function isRefused (task: Task, outcome: Outcome): boolean {
  try {
    return !runsOn((task.spec as TaskSpec).runOn, outcome, true)
  } catch {
    // The predicate failed now, and let the task run before: keep it.
    return false
  }
}
