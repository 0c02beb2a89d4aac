import type { ListedTask } from '../../types/backend'
import type { Line } from '../run/line'
import type { Parts } from './parts'
import { COLLECTING, PENDING, RUNNING } from '../task/states'
import type { Task } from '../task/task'
import type { Listing } from './listing'
import type { Lists } from './lists'
import { Monitor } from './monitor'
import type { FailureGroup, NameCount, Overview, TaskView, Totals } from './protocol'
import { listedView, nameOf, stateOf, taskView } from './views'

/** Tasks and lines of this process that are read for the names, besides running tasks: the oldest ones. */
const MAX_LOOKED_AT = 5_000
/** Running tasks and groups that are shown, at most. */
const SHOWN_RUNNING = 5
const SHOWN_GROUPS = 50

interface RunningTask {
  task: Task
  line: Line
  /** The last sign of life, in ms of `Date.now()`; `Infinity` if it is not known. */
  silent: number
}

/** The tasks of this process, as one look finds them. */
interface Own {
  /** Without deliveries, if the backend counts them itself. */
  totals: Totals
  stuck: number
  /** Some running tasks, the longest silent ones first. */
  running: RunningTask[]
  /** The ids of the tasks of the backend that run here. */
  delivered: Set<string>
  oldest: { task: Task, line: Line, since: number } | null
  next: { task: Task, line: Line } | null
  names: Map<string, number>
  of: number
}

/** The figures of the first screen, of this process and its backend together. Made at registration; reads, and changes nothing. */
export class OverviewSource {
  readonly #parts: Parts
  readonly #monitor: Monitor
  readonly #listing: Listing | null
  readonly #lists: Lists
  readonly #stuckAfter: number
  readonly #isPaused: () => boolean
  #toldUntil = 0

  constructor (parts: Parts, monitor: Monitor, listing: Listing | null, lists: Lists, stuckAfter: number, isPaused: () => boolean) {
    this.#parts = parts
    this.#monitor = monitor
    this.#listing = listing
    this.#lists = lists
    this.#stuckAfter = stuckAfter
    this.#isPaused = isPaused
  }

  /** The first page is open. */
  begin (): void {
    this.#monitor.watch()
  }

  /** The last page has been closed: nothing is kept. */
  rest (): void {
    this.#monitor.unwatch()
    this.#listing?.rest()
  }

  /** The overview for a new page, with all seconds. */
  whole (): Overview {
    return this.#look(true)
  }

  /** The overview for open pages, with the seconds since the last one. */
  next (): Overview {
    return this.#look(false)
  }

  #look (full: boolean): Overview {
    const { ledger, settings, store } = this.#parts
    this.#listing?.ask()
    const now = Date.now()
    const own = this.#own(now)
    const elsewhere = this.#listing?.list?.tasks ?? []
    const { totals, backend } = this.#totals(own.totals)
    const oldest = this.#oldest(own, elsewhere)
    const seconds = this.#monitor.secondsFrom(full ? 0 : this.#toldUntil + 1, oldest?.since ?? Infinity)
    if (!full) this.#toldUntil = Math.floor(now / 1_000) - 1
    return {
      now,
      full,
      stuckAfter: this.#stuckAfter,
      places: {
        // JSON makes `null` of Infinity.
        limit: settings.concurrency,
        taken: ledger.count(RUNNING),
        // A task that waits for a thread has its place already.
        queued: ledger.count(PENDING) - ledger.waiting
      },
      totals,
      backend,
      worker: store === null || settings.workerConcurrency === 0 ? null : { paused: this.#isPaused(), pausable: store.can.resume },
      ...this.#running(own, elsewhere, now),
      oldest: oldest?.view ?? null,
      retrying: this.#retrying(own, elsewhere),
      waiting: this.#waiting(own),
      failures: this.#failures(),
      schedules: settings.schedules.size,
      seconds
    }
  }

  #totals (own: Totals): Pick<Overview, 'totals' | 'backend'> {
    const { store } = this.#parts
    if (store === null) return { totals: own, backend: null }
    const { list, failed, cancelled } = this.#listing!
    const totals = { ...own }
    let counts = null
    if (list !== null) {
      const { running, waiting, delayed, failed, completed } = list.counts
      counts = { running, waiting, later: delayed, failed: Math.max(failed - cancelled, 0), completed }
      for (const name of ['running', 'waiting', 'later', 'failed'] as const) totals[name] += counts[name]
    }
    return { totals, backend: { name: store.name, counts, error: failed, pages: store.can.page } }
  }

  /** The tasks of this process. The counts are exact, however many tasks there are. */
  #own (now: number): Own {
    const { ledger } = this.#parts
    const isListed = (this.#listing?.list ?? null) !== null
    const running: RunningTask[] = []
    const delivered = new Set<string>()
    let stuck = 0
    let runningHere = 0
    let waitingForThread = 0
    for (const task of this.#monitor.running) {
      const line = task.owner as Line
      const isListedToo = line.delivery !== null && isListed
      if (isListedToo) delivered.add(task.ownId)
      if (line.attempt?.waits === true) {
        if (!isListedToo) waitingForThread++
        continue
      }
      if (!isListedToo) runningHere++
      const silent = lastIfUnknown(this.#monitor.silentSince(task))
      if (now - silent > this.#stuckAfter) stuck++
      keepOldest(running, { task, line, silent })
    }
    // The backend counts all deliveries as running.
    const deliveriesWaiting = isListed ? ledger.deliveries - delivered.size : 0
    return {
      totals: {
        running: runningHere,
        waiting: ledger.count(PENDING) - ledger.waiting - deliveriesWaiting + waitingForThread + ledger.count(COLLECTING),
        later: ledger.waiting,
        failed: this.#monitor.failedCount
      },
      stuck,
      running,
      delivered,
      ...this.#waitingHere(isListed)
    }
  }

  #waitingHere (isListed: boolean): Pick<Own, 'oldest' | 'next' | 'names' | 'of'> {
    let oldest: Own['oldest'] = null
    let next: Own['next'] = null
    const names = new Map<string, number>()
    let of = 0
    let left = MAX_LOOKED_AT
    for (const line of this.#parts.ledger.oldestOpenLines()) {
      if (left-- <= 0) break
      // An event stream that is open for hours may have nothing to do.
      if (line.unsettled === 0 || (line.delivery !== null && isListed)) continue
      for (const task of line.tasks()) {
        if (left-- <= 0) break
        const state = stateOf(task, line)
        if (state === 'running') continue
        if (state === 'waiting' || state === 'collecting') {
          const name = nameOf(task)
          names.set(name, (names.get(name) ?? 0) + 1)
          of++
          const since = Monitor.queuedSince(task)
          if (since !== null && (oldest === null || since < oldest.since)) oldest = { task, line, since }
        } else if (state === 'retrying' && (next === null || task.extra.due < next.task.extra.due)) {
          next = { task, line }
        }
      }
    }
    return { oldest, next, names, of }
  }

  #view ({ task, line }: { task: Task, line: Line }): TaskView {
    const view = taskView(task, line, this.#parts, this.#monitor)
    this.#lists.note(view.id, task)
    return view
  }

  #running (own: Own, elsewhere: ListedTask[], now: number): Pick<Overview, 'stuck' | 'longest'> {
    const views = own.running.map(item => this.#view(item))
    let { stuck } = own
    for (const listed of elsewhere) {
      if (listed.state !== 'running' || own.delivered.has(listed.id)) continue
      const view = { ...listedView(listed, false), silentSince: this.#listing!.silentSince(listed) }
      if (view.silentSince !== null && now - view.silentSince > this.#stuckAfter) stuck++
      views.push(view)
    }
    views.sort((a, b) => lastIfUnknown(a.silentSince) - lastIfUnknown(b.silentSince))
    const longest = views.slice(0, SHOWN_RUNNING)
    const first = stuck === 0 ? null : longest[0] as TaskView
    return { stuck: { count: stuck, first }, longest: longest.sort((a, b) => lastIfUnknown(a.since) - lastIfUnknown(b.since)) }
  }

  #oldest ({ oldest }: Own, elsewhere: ListedTask[]): { since: number, view: TaskView } | null {
    let first: ListedTask & { since: number } | null = null
    for (const task of elsewhere) if (task.state === 'waiting' && task.since !== null && (first === null || task.since < first.since)) first = task as ListedTask & { since: number }
    if (oldest !== null && (first === null || oldest.since <= first.since)) return { since: oldest.since, view: { ...this.#view(oldest), since: oldest.since } }
    return first === null ? null : { since: first.since, view: listedView(first, false) }
  }

  #retrying ({ next }: Own, elsewhere: ListedTask[]): Overview['retrying'] {
    const { ledger } = this.#parts
    const retrying = elsewhere.filter(({ state }) => state === 'retrying')
    const count = ledger.waiting - ledger.delayed + retrying.length
    const first = retrying.reduce<ListedTask | null>((first, task) => first === null || Number(task.due) < Number(first.due) ? task : first, null)
    if (next !== null && (first === null || next.task.extra.due <= Number(first.due))) return { count, next: this.#view(next) }
    return { count, next: first === null ? null : listedView(first, false) }
  }

  #waiting ({ names, of }: Own): Overview['waiting'] {
    const all = new Map(names)
    const scan = this.#listing?.waiting
    for (const [name, count] of scan?.result ?? []) all.set(name, (all.get(name) ?? 0) + count)
    const groups: NameCount[] = Array.from(all, ([name, count]) => ({ name, count })).sort((a, b) => b.count - a.count)
    return { groups: groups.slice(0, SHOWN_GROUPS), of: of + (scan?.of ?? 0), more: Math.max(groups.length - SHOWN_GROUPS, 0) }
  }

  #failures (): Overview['failures'] {
    const { store } = this.#parts
    const kept = new Map<string, number>()
    for (const { group, delivered, whole } of this.#monitor.failures.values()) {
      if (delivered ? store?.can.retry === true : whole) kept.set(group, (kept.get(group) ?? 0) + 1)
    }
    const groups = new Map<string, FailureGroup>()
    for (const group of this.#monitor.groups.values()) groups.set(group.id, { ...group, again: kept.get(group.id) ?? 0, dismissible: true })
    const scan = this.#listing?.failures
    for (const group of scan?.result.values() ?? []) {
      const own = groups.get(group.id)
      const again = store!.can.retry ? group.count : 0
      groups.set(group.id, own === undefined
        ? { ...group, again, dismissible: store!.can.remove }
        : { ...own, count: own.count + group.count, again: own.again + again, last: Math.max(Number(own.last), Number(group.last)) })
    }
    const newest = [...groups.values()].sort((a, b) => Number(b.last) - Number(a.last))
    return { groups: newest.slice(0, SHOWN_GROUPS), of: this.#monitor.failedCount + (scan?.of ?? 0), more: Math.max(newest.length - SHOWN_GROUPS, 0) }
  }
}

/** A time to sort by. */
function lastIfUnknown (time: number | null): number {
  return time ?? Infinity
}

/** Keeps as many running tasks as are shown: there may be very many. */
function keepOldest (running: RunningTask[], item: RunningTask): void {
  const index = running.findIndex(({ silent }) => silent > item.silent)
  running.splice(index === -1 ? running.length : index, 0, item)
  if (running.length > SHOWN_RUNNING) running.pop()
}
