import type { ListedTask } from '../../types/backend'
import type { Parts } from './parts'
import { nextTurn } from '../shared/timers'
import { groupOf, lineOf } from './groups'
import { TASKS_PER_READ, type Listing } from './listing'
import type { Lists } from './lists'
import type { Monitor } from './monitor'
import type { ActionResult, GroupCursor, GroupResult } from './protocol'

/** Failed tasks of the backend that one action on a group reads at most. The page repeats the action. */
const MAX_READ = 2_000

/** A backend may tell the same time a little differently from read to read, where it has to reckon with the clock of a server. */
const CLOCK_SLACK_MS = 200

/** The actions of the page, on tasks of this process and of the backend. Made at registration. */
export class Actions {
  readonly #parts: Parts
  readonly #monitor: Monitor
  readonly #listing: Listing | null
  readonly #lists: Lists
  #paused = false
  #closing = false

  constructor (parts: Parts, monitor: Monitor, listing: Listing | null, lists: Lists) {
    this.#parts = parts
    this.#monitor = monitor
    this.#listing = listing
    this.#lists = lists
  }

  async cancel (id: string): Promise<ActionResult> {
    const task = this.#lists.known(id) ?? this.#parts.ledger.index.live(id)
    const done = (task !== undefined && await task.cancel()) || (await this.#parts.store?.cancel(id) ?? false)
    return this.#acted(id, done)
  }

  async runAgain (id: string): Promise<ActionResult> {
    const failure = this.#monitor.failures.get(id)
    if (failure !== undefined && !failure.delivered) {
      if (!failure.whole) return { done: false }
      const next = this.#monitor.runAgain(failure)
      this.#lists.forget()
      return next === null ? { done: false } : { done: true, id: next }
    }
    const done = await this.#parts.store?.retry(id) ?? false
    if (done) this.#monitor.forget(id)
    return this.#acted(id, done)
  }

  /** Removes a failed task from the page and from the backend. */
  async dismiss (id: string): Promise<ActionResult> {
    const own = this.#monitor.forget(id)
    const stored = await this.#parts.store?.remove(id) ?? false
    return this.#acted(id, own || stored)
  }

  #acted (id: string, done: boolean): ActionResult {
    this.#lists.forget()
    if (done) this.#listing?.forget(id)
    return { done }
  }

  /**
   * Runs the failed tasks of a group again, as far as they can be.
   * @param from where the last call ended; `null` for the first one
   */
  async runGroupAgain (group: string, from: GroupCursor | null): Promise<GroupResult> {
    let done = 0
    for (const { id } of from === null ? [...this.#monitor.failures.values()].filter(failure => failure.group === group) : []) {
      // A delivery is kept here if the backend gives no lists; the backend runs it again.
      if ((await this.runAgain(id)).done) done++
    }
    return this.#eachStored(group, from, done, id => this.#parts.store!.retry(id))
  }

  /** Removes the failed tasks of a group from the page and from the backend. */
  dismissGroup (group: string, from: GroupCursor | null): Promise<GroupResult> {
    return this.#eachStored(group, from, from === null ? this.#monitor.forgetGroup(group) : 0, id => this.#parts.store!.remove(id))
  }

  /** Acts on failed tasks of a group in the backend. */
  async #eachStored (group: string, from: GroupCursor | null, doneHere: number, action: (id: string) => Promise<boolean>): Promise<GroupResult> {
    let done = 0
    let next: GroupCursor | null = null
    const act = async (tasks: ListedTask[]): Promise<number> => {
      const wanted = tasks.filter(({ state, label, error }) => state === 'failed' && groupOf(label, lineOf(error)).id === group)
      const acted = (await Promise.all(wanted.map(({ id }) => action(id)))).filter(Boolean).length
      done += acted
      return acted
    }
    if (this.#listing !== null) {
      if (this.#parts.store!.can.page) next = await this.#onPages(from ?? await this.#firstCursor(), act)
      else await act(this.#listing.list?.tasks ?? [])
      if (done !== 0) this.#listing.forgetGroup(group, done)
    }
    this.#lists.forget()
    return { done: doneHere + done, next }
  }

  /** By the clock that the backend's times are of. */
  async #firstCursor (): Promise<GroupCursor> {
    const store = this.#parts.store!
    const [[newest], list] = await Promise.all([store.page('failed', 0, 1, true), store.list(1)])
    return { before: (newest?.since ?? Date.now()) + CLOCK_SLACK_MS, left: list?.counts.failed ?? 0, offset: 0, acted: 0 }
  }

  /**
   * Goes through the failed tasks of the backend, the oldest first, until MAX_READ have been read.
   * @param act resolves with the number of tasks that have left the list
   * @returns where the next call goes on; `null` at the end
   */
  async #onPages ({ before, left, offset, acted }: GroupCursor, act: (tasks: ListedTask[]) => Promise<number>): Promise<GroupCursor | null> {
    for (let looked = 0; looked < MAX_READ; await nextTurn()) {
      const tasks = await this.#parts.store!.page('failed', offset, TASKS_PER_READ, false)
      const earlier = tasks.filter(({ since }) => since === null || since <= before)
      const gone = await act(earlier)
      // The following ones move up.
      offset += tasks.length - gone
      acted += gone
      left -= gone
      looked += tasks.length
      if (left <= 0) return null
      if (tasks.length !== 0 && earlier.length === tasks.length) continue
      // Others may have shortened the list meanwhile, so that tasks were passed over.
      if (acted === 0 || offset === 0) return null
      offset = acted = 0
    }
    return { before, left, offset, acted }
  }

  /** Adds a run of a schedule now; not while the last one has not settled, unless its runs may overlap. */
  async runSchedule (id: string): Promise<ActionResult> {
    const { app, settings } = this.#parts
    if (this.#closing || !settings.schedules.has(id)) return { done: false }
    const run = await app.runSchedule(id)
    this.#lists.forget()
    return run === null ? { done: false } : { done: true, id: run.id }
  }

  get isPaused (): boolean {
    return this.#paused
  }

  /** Stops this process from taking tasks of the backend. The tasks that it has run on. */
  async pause (): Promise<ActionResult> {
    const { store } = this.#parts
    if (store === null || !store.can.resume || this.#closing) return { done: false }
    await store.pause()
    this.#paused = true
    return { done: true }
  }

  async resume (): Promise<ActionResult> {
    if (this.#closing || await this.#parts.store?.resume() !== true) return { done: false }
    this.#paused = false
    return { done: true }
  }

  /** The application closes: tasks of the backend must not be handed out any more. */
  close (): void {
    this.#closing = true
  }
}
