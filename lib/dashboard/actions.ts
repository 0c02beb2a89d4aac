import type { Parts } from './parts'
import { nextTurn } from '../shared/timers'
import { groupOf, lineOf } from './groups'
import { TASKS_PER_READ, type Listing } from './listing'
import type { Lists } from './lists'
import type { Monitor } from './monitor'
import type { ActionResult, GroupResult } from './protocol'

/** Failed tasks of the backend that one action on a group reads at most. The page repeats the action. */
const MAX_READ = 2_000

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
      return { done: true, id: next }
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

  /** Runs the failed tasks of a group again, as far as they can be. */
  async runGroupAgain (group: string): Promise<GroupResult> {
    let done = 0
    for (const failure of [...this.#monitor.failures.values()]) {
      if (failure.group !== group) continue
      // A delivery is kept here if the backend gives no lists; the backend runs it again.
      if (failure.delivered ? (await this.runAgain(failure.id)).done : failure.whole) done++
      if (!failure.delivered && failure.whole) this.#monitor.runAgain(failure)
    }
    return this.#eachStored(group, done, id => this.#parts.store!.retry(id))
  }

  /** Removes the failed tasks of a group from the page and from the backend. */
  dismissGroup (group: string): Promise<GroupResult> {
    return this.#eachStored(group, this.#monitor.forgetGroup(group), id => this.#parts.store!.remove(id))
  }

  /** Acts on the failed tasks of a group in the backend, the newest first. */
  async #eachStored (group: string, before: number, action: (id: string) => Promise<boolean>): Promise<GroupResult> {
    let done = 0
    let more = false
    if (this.#listing !== null) {
      const store = this.#parts.store!
      // A task that runs again or is removed leaves the list, and the following ones move up.
      let offset = 0
      for (let looked = 0; ;) {
        const tasks = store.can.page ? await store.page('failed', offset, TASKS_PER_READ, true) : this.#listing.list?.tasks ?? []
        if (tasks.length === 0) break
        const wanted = tasks.filter(({ state, label, error }) => state === 'failed' && groupOf(label, lineOf(error)).id === group)
        const acted = (await Promise.all(wanted.map(({ id }) => action(id)))).filter(Boolean).length
        done += acted
        offset += tasks.length - acted
        looked += tasks.length
        if (!store.can.page) break
        if (looked >= MAX_READ) {
          more = true
          break
        }
        await nextTurn()
      }
      if (done !== 0) this.#listing.forgetGroup(group, done)
    }
    this.#lists.forget()
    return { done: before + done, more: more && done !== 0 }
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
