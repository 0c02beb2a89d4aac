import type { ListedTask, TaskList } from '../../types/backend'
import { reasonOf } from '../shared/show'
import { nextTurn, now } from '../shared/timers'
import type { Store } from '../store/store'
import { type Group, groupOf, lineOf } from './groups'

/** Tasks of each state that are read with the counts. */
const LISTED_PER_STATE = 100
/** Tasks of a list that one read of the backend asks for. */
export const TASKS_PER_READ = 100
/** Failed and waiting tasks that are read to be grouped, at most. */
const MAX_FAILED_READ = 2_000
const MAX_WAITING_READ = 1_000
/** Milliseconds between two reads of the backend. */
const INTERVAL_MS = 2_000
/** After many tasks were read, the rest is this many times as long as the read took, within the limits. */
const REST_FACTOR = 50
const MIN_REST_MS = 5_000
/** A read may take long because the backend is far away, or the machine busy. */
const MAX_REST_MS = 30_000

/** The groups of the tasks that have been read. */
interface Scan<Result> {
  result: Result
  /** The number of tasks that were read. */
  of: number
}

/**
 * The backend's tasks, as they were at the last read: a page must not wait for a server. Read every two seconds at most, and only while
 * a page is open. Made at registration.
 */
export class Listing {
  readonly #store: Store
  /** `null` before the first answer, and for a backend without lists. */
  list: TaskList | null = null
  /** The error of the last read. */
  failed: string | null = null
  failures: Scan<Map<string, Group>> = { result: new Map(), of: 0 }
  waiting: Scan<Map<string, number>> = { result: new Map(), of: 0 }
  /** Cancelled tasks that the backend keeps in its list of failed ones. */
  cancelled = 0
  /** The progress of tasks that run elsewhere, and the time of its last change that was seen. */
  #progress = new Map<string, { shown: string, at: number }>()
  #askedAt = -Infinity
  #asking: Promise<void> | null = null
  #scanning = false
  #restUntil = 0
  /** The counts and first tasks that the last scan was made of: the same ones need no other scan. */
  #scanned = ''
  /** The number of actions so far: a scan that was under way meanwhile is out of date. */
  #actions = 0

  constructor (store: Store) {
    this.#store = store
  }

  /** Reads the backend's tasks, for a later look. */
  ask (): void {
    const at = Date.now()
    if (this.#asking !== null || at - this.#askedAt < INTERVAL_MS) return
    this.#askedAt = at
    const asking: Promise<void> = this.#asking = this.#store.list(LISTED_PER_STATE).then(list => {
      if (this.#asking !== asking) return
      this.list = list
      this.failed = null
      if (list !== null) this.#noteProgress(list)
    }, error => {
      if (this.#asking !== asking) return
      this.list = null
      this.failed = String(reasonOf(error))
    }).then(() => {
      if (this.#asking !== asking) return
      this.#asking = null
      this.#scan()
    })
  }

  #noteProgress ({ tasks }: TaskList): void {
    const progress = new Map<string, { shown: string, at: number }>()
    for (const { id, state, progress: value } of tasks) {
      if (state !== 'running' || value === undefined) continue
      const shown = JSON.stringify(value)
      const known = this.#progress.get(id)
      progress.set(id, known?.shown === shown ? known : { shown, at: Date.now() })
    }
    this.#progress = progress
  }

  /** The last sign of life of a task that runs elsewhere: its begin, or the last change of its progress. */
  silentSince ({ id, since }: Pick<ListedTask, 'id' | 'since'>): number | null {
    return this.#progress.get(id)?.at ?? since
  }

  async #scan (): Promise<void> {
    const { list } = this
    if (list === null) {
      this.failures = { result: new Map(), of: 0 }
      this.waiting = { result: new Map(), of: 0 }
      this.cancelled = 0
      return
    }
    const scanned = JSON.stringify([list.counts.failed, list.counts.waiting, ...['failed', 'waiting'].map(state => list.tasks.find(task => task.state === state)?.id)])
    if (this.#scanning || scanned === this.#scanned || now() < this.#restUntil) return
    this.#scanning = true
    this.#scanned = scanned
    const begin = now()
    const actions = this.#actions
    try {
      const waiting = await this.#scanWaiting(list)
      const { failures, cancelled } = await this.#scanFailed(list)
      if (this.#actions === actions) Object.assign(this, { waiting, failures, cancelled })
    } catch {
      // The next read will say that the backend does not answer.
      this.#scanned = ''
    }
    if (this.#actions === actions) this.#restUntil = now() + Math.min(Math.max((now() - begin) * REST_FACTOR, MIN_REST_MS), MAX_REST_MS)
    this.#scanning = false
  }

  async #scanWaiting (list: TaskList): Promise<Scan<Map<string, number>>> {
    const names = new Map<string, number>()
    let of = 0
    for await (const { label } of this.#tasksOf(list, 'waiting', MAX_WAITING_READ)) {
      names.set(label, (names.get(label) ?? 0) + 1)
      of++
    }
    return { result: names, of }
  }

  async #scanFailed (list: TaskList): Promise<{ failures: Scan<Map<string, Group>>, cancelled: number }> {
    const groups = new Map<string, Group>()
    let of = 0
    let cancelled = 0
    for await (const { state, label, error, since } of this.#tasksOf(list, 'failed', MAX_FAILED_READ)) {
      if (state === 'cancelled') cancelled++
      if (state !== 'failed') continue
      of++
      const group = groupOf(label, lineOf(error))
      const known = groups.get(group.id)
      if (known === undefined) groups.set(group.id, { ...group, count: 1, last: since })
      else known.count++
    }
    return { failures: { result: groups, of }, cancelled }
  }

  /** The first tasks of a list: the newest failed ones, or those that wait longest. */
  async * #tasksOf (list: TaskList, name: 'failed' | 'waiting', max: number): AsyncGenerator<ListedTask> {
    const listed = list.tasks.filter(({ state }) => state === name)
    if (!this.#store.can.page || list.counts[name] <= listed.length) return yield * listed
    for (let offset = 0; offset < max; offset += TASKS_PER_READ) {
      const tasks = await this.#store.page(name, offset, TASKS_PER_READ, name === 'failed')
      yield * tasks
      if (offset + TASKS_PER_READ >= list.counts[name]) return
      // A store in this process answers at once: let the event loop turn.
      await nextTurn()
    }
  }

  /** Takes out a task that was cancelled, removed, or runs again since the last read. */
  forget (id: string): void {
    const task = this.list?.tasks.find(task => task.id === id)
    if (this.list !== null && task !== undefined) {
      const { counts, tasks } = this.list
      this.list = { counts, tasks: tasks.filter(other => other !== task) }
      if (task.state === 'failed') this.#count(groupOf(task.label, lineOf(task.error)).id, 1)
    }
    this.#askAnew()
  }

  /** Takes out failed tasks of a group that were removed, or run again, since the last read. */
  forgetGroup (id: string, count: number): void {
    if (this.list !== null) {
      const { counts, tasks } = this.list
      this.list = { counts, tasks: tasks.filter(({ state, label, error }) => state !== 'failed' || groupOf(label, lineOf(error)).id !== id) }
    }
    this.#count(id, count)
    this.#askAnew()
  }

  #count (id: string, gone: number): void {
    const { result } = this.failures
    const group = result.get(id)
    if (group === undefined) return
    group.count -= gone
    if (group.count <= 0) result.delete(id)
  }

  /** Reads again: an answer under way does not know of the last action. */
  #askAnew (): void {
    this.#asking = null
    this.#askedAt = -Infinity
    this.#scanned = ''
    this.#restUntil = 0
    this.#actions++
  }

  /** The last page has been closed: nothing is kept. */
  rest (): void {
    this.list = this.failed = null
    this.failures = { result: new Map(), of: 0 }
    this.waiting = { result: new Map(), of: 0 }
    this.cancelled = 0
    this.#progress = new Map()
    this.#askAnew()
  }
}
