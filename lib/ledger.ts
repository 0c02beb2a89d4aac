import { publishDrop, publishSettle, settleChannel } from './diagnostics'
import { FST_BGT_CLOSED, FST_BGT_OVERLOADED } from './errors'
import type { Line } from './line'
import type { Observer } from './observer'
import { COLLECTING, DROPPED, PENDING, RUNNING, STATES, type Task, type TaskState } from './task'

/**
 * How many tasks are in each state. All of them together are `accepted`, so nothing can be missing; the two after it
 * count events, or things that are not tasks of their own.
 */
export interface Stats extends Record<TaskState, number> {
  /** Tasks that `add` has taken, and deliveries of the backend, since the start: the sum of all the states. */
  accepted: number
  /** Attempts that failed and were followed by a wait for another one, since the start. */
  retried: number
  /** Functions that still run although their task has been given up: timed out, cancelled, or left behind at close. */
  abandoned: number
}

/** The account of all tasks: which state each is in, which lines are open, who waits for them to end. */
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
  /** Tasks whose first attempt lies in the future. */
  delayed = 0
  /** Tasks that wait for a timer: for their first attempt or for another one. */
  waiting = 0
  /** DI scopes that are being disposed: whose they are. */
  readonly disposals = new Set<{ line: Line, task: Task | undefined }>()
  closed = false
  /** Follows every task; `null` unless somebody watches. */
  observer: Observer | null = null

  constructor (maxPending: number) {
    this.#maxPending = maxPending
  }

  /**
   * @throws FST_BGT_CLOSED once the drain is over; FST_BGT_OVERLOADED at `maxPending`
   */
  admit (): void {
    if (this.closed) throw new FST_BGT_CLOSED()
    if (this.unsettled >= this.#maxPending) throw overloaded(this.unsettled, 'waiting or running', `maxPending is ${this.#maxPending}`)
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
   * Gives a task its final state and lets go of what it held.
   * @param reason of one that is dropped
   */
  settle (task: Task, to: number, reason = ''): void {
    const line = task.line as Line
    this.move(task, to)
    if (task.spec !== null && task.spec.dedupe !== null && this.#dedupe.get(task.spec.dedupe) === task) this.#dedupe.delete(task.spec.dedupe)
    task.release()
    // The subscribers come last: by then nothing that they do can settle it again.
    if (to === DROPPED) publishDrop(task, line, reason)
    if (settleChannel.hasSubscribers) publishSettle(task, line)
    if (--line.unsettled === 0) line.settled()
    if (this.#watchers.length !== 0) this.notify()
  }

  /** A task has been given up, but its function still runs. */
  abandon (line: Line): void {
    this.abandoned++
    line.abandoned++
  }

  /** The function of a task that had been given up has ended. */
  ended (line: Line): void {
    this.abandoned--
    if (--line.abandoned === 0 && line.unsettled === 0) line.settled()
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

  /** Takes a line off the list of open ones. */
  close (line: Line): void {
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
   * Calls back once a condition holds, and still does a turn of the event loop later, in which what waited for the last task to
   * settle can add another; unless the returned function is called before.
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

  /** Tells the watchers that something has ended, or has come to its next phase. */
  notify (): void {
    for (const watcher of this.#watchers) watcher()
  }
}

/** The refusal of a task where so many others have reached a limit. */
export function overloaded (count: number, doing: string, limit: string): Error {
  // Fastify's own error handler sends an error's headers along.
  return Object.assign(new FST_BGT_OVERLOADED(count, doing, limit), { headers: { 'retry-after': '1' } })
}
