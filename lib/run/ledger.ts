import type { Stats } from '../../types/task'
import { publishDrop, publishSettle, settleChannel } from '../observe/channels'
import type { Observer } from '../observe/observer'
import { FST_BGT_CLOSED, FST_BGT_OVERLOADED } from '../shared/errors'
import { setImmediate } from '../shared/timers'
import { COLLECTING, DROPPED, PENDING, RUNNING, STATES } from '../task/states'
import type { Task } from '../task/task'
import type { Line } from './line'
import { TaskIndex } from './task-index'

/** The account of all tasks of a registration: the state of each, the open lines, and the watchers that wait for their end. */
export class Ledger {
  readonly #counts: number[] = STATES.map(() => 0)
  readonly #maxPending: number
  /** The tasks that hold a dedupe id. */
  readonly #dedupe = new Map<string, Task>()
  #firstOpen: Line | null = null
  #lastOpen: Line | null = null
  #watchers: Array<() => void> = []
  accepted = 0
  retried = 0
  abandoned = 0
  /** Deliveries of the backend that have not settled. */
  deliveries = 0
  /** Tasks whose first attempt lies in the future. */
  delayed = 0
  /** Tasks that wait for a timer: for their first attempt or for another one. */
  waiting = 0
  /** DI scopes that are being disposed, by their line and, for the scope of one attempt, its task. */
  readonly disposals = new Set<{ line: Line, task: Task | undefined }>()
  /** Callbacks that end the wait for handlers which keep a DI scope after their request's tasks. */
  readonly handlers = new Set<() => void>()
  closed = false
  /** Follows every task; `null` without a dashboard. */
  observer: Observer | null = null
  readonly index = new TaskIndex()

  constructor (maxPending: number) {
    this.#maxPending = maxPending
  }

  /**
   * @param replaced a task that makes room for the new one
   * @throws FST_BGT_CLOSED once the drain is over; FST_BGT_OVERLOADED at `maxPending`
   */
  assertRoom (replaced: Task | null = null): void {
    if (this.closed) throw new FST_BGT_CLOSED()
    if (this.unsettled >= this.#maxPending + (replaced === null ? 0 : 1)) throw new FST_BGT_OVERLOADED(this.unsettled, 'waiting or running', `maxPending is ${this.#maxPending}`)
  }

  /** Takes a task in, in the state it has. */
  accept (task: Task, line: Line): void {
    this.accepted++
    line.unsettled++
    this.#counts[task.status]!++
    if (this.observer !== null) this.observer.accepted(task)
    if (!line.open) this.#link(line)
  }

  /** Gives a dedupe id to a task, unless one that is not settled has it. */
  claim (dedupe: string, task: Task): boolean {
    const holder = this.#dedupe.get(dedupe)
    if (holder !== undefined && !holder.isSettled) return false
    this.#dedupe.set(dedupe, task)
    return true
  }

  move (task: Task, to: number): void {
    if (this.observer !== null) this.observer.moves(task, to)
    this.#counts[task.status]!--
    this.#counts[to]!++
    task.status = to
  }

  /**
   * Gives a task its final state and releases its resources.
   * @param reason of a dropped task
   */
  settle (task: Task, line: Line, to: number, reason = ''): void {
    this.move(task, to)
    if (task.spec !== null && task.spec.dedupe !== null && this.#dedupe.get(task.spec.dedupe) === task) this.#dedupe.delete(task.spec.dedupe)
    task.release()
    this.index.settle(task)
    // The subscribers come last: nothing that they do can settle the task again.
    if (to === DROPPED) publishDrop(task, line, reason)
    if (settleChannel.hasSubscribers) publishSettle(task, line)
    if (--line.unsettled === 0) this.closeSettled(line)
    if (this.#watchers.length !== 0) this.notify()
  }

  /** A task has been abandoned, but its function still runs. */
  abandon (line: Line): void {
    this.abandoned++
    line.abandoned++
  }

  /** The function of an abandoned task has ended. */
  ended (line: Line): void {
    this.abandoned--
    if (--line.abandoned === 0 && line.unsettled === 0) this.closeSettled(line)
  }

  /** Closes a line whose tasks have all settled, unless its request may still add. */
  closeSettled (line: Line): void {
    if (line.onSettled()) this.#close(line)
  }

  count (state: number): number {
    return this.#counts[state] as number
  }

  get unsettled (): number {
    const counts = this.#counts
    return (counts[COLLECTING] as number) + (counts[PENDING] as number) + (counts[RUNNING] as number)
  }

  /** Tasks that run, or would if it were their turn, and DI scopes that are being disposed after them. */
  get active (): number {
    return this.count(PENDING) + this.count(RUNNING) - this.delayed + this.disposals.size
  }

  /** As {@link active}, without the tasks whose next attempt lies in the future. */
  get busy (): number {
    return this.active + this.delayed - this.waiting
  }

  stats (): Stats {
    const stats = { accepted: this.accepted, retried: this.retried, abandoned: this.abandoned } as Stats
    STATES.forEach((state, index) => { stats[state] = this.#counts[index] as number })
    return stats
  }

  #link (line: Line): void {
    line.open = true
    line.nextOpen = this.#firstOpen
    if (this.#firstOpen !== null) this.#firstOpen.previousOpen = line
    else this.#lastOpen = line
    this.#firstOpen = line
  }

  #close (line: Line): void {
    if (!line.open) return
    line.open = false
    if (line.previousOpen === null) this.#firstOpen = line.nextOpen
    else line.previousOpen.nextOpen = line.nextOpen
    if (line.nextOpen !== null) line.nextOpen.previousOpen = line.previousOpen
    else this.#lastOpen = line.previousOpen
    line.previousOpen = line.nextOpen = null
    if (this.#watchers.length !== 0) this.notify()
  }

  * openLines (): Generator<Line> {
    for (let line = this.#firstOpen; line !== null;) {
      const next: Line | null = line.nextOpen
      yield line
      line = next
    }
  }

  /** The open lines that have been open longest first. Nothing may open or close while it is under way. */
  * oldestOpenLines (): Generator<Line> {
    for (let line = this.#lastOpen; line !== null; line = line.previousOpen) yield line
  }

  /** Calls `watcher` after every change that may have ended something, until the returned function is called. */
  watch (watcher: () => void): () => void {
    this.#watchers.push(watcher)
    return () => { this.#watchers = this.#watchers.filter(other => other !== watcher) }
  }

  /**
   * Calls back once a condition holds, and still holds one turn of the event loop later: code that waited for the last task to settle
   * may add another one in it. The returned function cancels.
   */
  whenLasting (holds: () => boolean, then: () => void): () => void {
    let looksAgain = false
    let ended = false
    const check = () => {
      if (looksAgain || !holds()) return
      looksAgain = true
      setImmediate(look)
    }
    const look = () => {
      looksAgain = false
      if (ended || !holds()) return
      end()
      then()
    }
    const unwatch = this.watch(check)
    const end = () => {
      ended = true
      unwatch()
    }
    check()
    return end
  }

  /** Calls the watchers: something has ended, or has come to its next phase. */
  notify (): void {
    for (const watcher of this.#watchers) watcher()
  }
}
