import type { ListedTask } from '../../types/backend'
import type { Line } from '../run/line'
import type { Parts } from './parts'
import { nextTurn } from '../shared/timers'
import type { Task } from '../task/task'
import { groupOf, lineOf } from './groups'
import { TASKS_PER_READ, type Listing } from './listing'
import type { Failure, Monitor } from './monitor'
import type { ListName, TaskDetails, TaskPage, TaskView } from './protocol'
import { endedDetails, failureDetails, failureView, LIST_OF, listedView, liveDetails, payloadOf, recordDetails, stateOf, taskView } from './views'

/** One page of a list, as it is asked for. */
export interface Query {
  list: ListName
  /** The number of tasks of the list before this page. */
  offset: number
  newestFirst: boolean
  /** A part of a name or of a request's id, the whole of one in double quotes, or a whole task id; empty for all tasks. */
  search: string
  /** The id of a group of failures; empty for all tasks. */
  group: string
}

/** Tasks of one page. */
const TASKS_PER_PAGE = 50
/** Tasks that are searched for one page, at most. */
const MAX_LOOKED_AT = 5_000
/** Lines of this process that are read in one turn of the event loop. */
const LINES_PER_TURN = 1_000
/** Tasks of this process that have been shown and so can be opened and cancelled by their ids, at most. */
const MAX_KNOWN = 5_000
/** Milliseconds for which the same question gets the same answer. */
const FRESH_MS = 1_000
/** Answers that are kept, at most. */
const MAX_ANSWERS = 100

const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i

/** The backend's name of a list. */
const STORED_LISTS = { running: 'running', waiting: 'waiting', later: 'delayed', failed: 'failed', completed: 'completed' } as const

/** One page, filled from the tasks of a list, one after the other. Made for one answer. */
class PageOfTasks {
  readonly tasks: TaskView[] = []
  readonly #offset: number
  readonly #matches: (view: TaskView) => boolean
  /** Tasks of the list so far, with those before this page. */
  passed = 0
  /** Tasks that were searched for this page. */
  looked = 0
  /** Whether the page ends early, although the list may go on. */
  isCut = false

  constructor ({ offset, search, group }: Query) {
    this.#offset = offset
    const isWanted = matcherOf(search)
    this.#matches = view => isWanted(view) && (group === '' || groupOf(view.name, view.error ?? lineOf(undefined)).id === group)
  }

  get isFull (): boolean {
    return this.tasks.length === TASKS_PER_PAGE || this.looked === MAX_LOOKED_AT
  }

  /** Passes over the next task of the backend's list, which is none of this one. */
  skip (): void {
    this.passed++
    this.looked++
  }

  /** Adds the next task of the list, if it matches. Tasks before this page need no view. */
  take (view: () => TaskView): void {
    if (this.passed++ < this.#offset) return
    this.looked++
    const made = view()
    if (this.#matches(made)) this.tasks.push(made)
  }
}

function matcherOf (search: string): (view: TaskView) => boolean {
  const [, whole] = /^"(.+)"$/s.exec(search) ?? []
  if (whole !== undefined) return ({ name, requestId }) => name === whole || requestId === whole
  const part = search.toLowerCase()
  return ({ name, requestId }) => name.toLowerCase().includes(part) || (requestId !== null && requestId.toLowerCase().includes(part))
}

/** The lists, and the details of one task: first the tasks of this process, then those of the backend. Made at registration. */
export class Lists {
  readonly #parts: Parts
  readonly #monitor: Monitor
  readonly #listing: Listing | null
  readonly #withPayload: boolean
  readonly #known = new Map<string, Task>()
  readonly #answers = new Map<string, { until: number, answer: Promise<unknown> }>()
  /** The payloads as text, made once: formatting may take long. */
  readonly #payloads = new WeakMap<object, string>()

  constructor (parts: Parts, monitor: Monitor, listing: Listing | null, withPayload: boolean) {
    this.#parts = parts
    this.#monitor = monitor
    this.#listing = listing
    this.#withPayload = withPayload
  }

  page (query: Query): Promise<TaskPage> {
    return this.#once(JSON.stringify(query), () => this.#page(query))
  }

  details (id: string): Promise<TaskDetails | null> {
    return this.#once(id, () => this.#details(id))
  }

  /** A task of this process that a page has shown. */
  known (id: string): Task | undefined {
    return this.#known.get(id)
  }

  /** Forgets the answers: an action has changed the lists. */
  forget (): void {
    this.#answers.clear()
  }

  #once<Answer> (key: string, make: () => Promise<Answer>): Promise<Answer> {
    const at = Date.now()
    const known = this.#answers.get(key)
    if (known !== undefined && at < known.until) return known.answer as Promise<Answer>
    const answer = make()
    // A failed question is asked again.
    answer.catch(() => this.#answers.delete(key))
    this.#answers.delete(key)
    this.#answers.set(key, { until: at + FRESH_MS, answer })
    if (this.#answers.size > MAX_ANSWERS) this.#answers.delete(this.#answers.keys().next().value as string)
    return answer
  }

  async #page (query: Query): Promise<TaskPage> {
    if (UUID.test(query.search)) return this.#byId(query.search.toLowerCase())
    const part = new PageOfTasks(query)
    let note = ''
    const isWhole = query.list === 'failed' ? this.#ownFailures(query, part) : await this.#own(query, part)
    const { failures, failedCount } = this.#monitor
    if (query.list === 'failed' && failedCount > failures.size) note = `Of this process, the last ${failures.size} failed tasks are kept, and of ${failedCount - failures.size} others the number.`
    if (isWhole && this.#listing !== null) {
      if (this.#parts.store!.can.page) await this.#stored(query, part)
      else note = `${note} ${this.#listedOnly(query, part)}`.trim()
    } else if (query.list === 'completed' && this.#listing === null) {
      note = 'This process keeps no completed tasks. A backend does: SQLite, Redis or PostgreSQL.'
    }
    // Of the others only the number is known.
    const isEnd = query.list === 'failed' && this.#listing === null && part.passed === failures.size
    return { tasks: part.tasks, next: !isEnd && (part.isFull || part.isCut) ? part.passed : null, looked: part.looked, note }
  }

  async #byId (id: string): Promise<TaskPage> {
    const details = await this.details(id)
    if (details === null) return { tasks: [], next: null, looked: 0, note: 'No task with this id is known here.' }
    const { added, started, ended, errors, payload, result, folder, ...task } = details
    return { tasks: [task], next: null, looked: 1, note: '' }
  }

  /** Adds the tasks of this process. Returns whether all fit in. */
  async #own ({ list, newestFirst }: Query, part: PageOfTasks): Promise<boolean> {
    const { ledger } = this.#parts
    // Deliveries are in the backend's lists too.
    const isListed = this.#listing !== null && (this.#parts.store!.can.page || this.#listing.list !== null)
    let slice = LINES_PER_TURN
    for (const line of newestFirst ? ledger.openLines() : ledger.oldestOpenLines()) {
      if (--slice === 0) {
        slice = LINES_PER_TURN
        await nextTurn()
        // A line that has closed meanwhile has no successor: the next page goes on from here.
        if (!line.open) {
          part.isCut = true
          return false
        }
      }
      if (line.unsettled === 0 || (line.delivery !== null && isListed)) continue
      for (const task of line.tasks()) {
        if (LIST_OF[stateOf(task, line)] !== list) continue
        if (part.isFull) return false
        part.take(() => this.#view(task, line))
      }
    }
    return !part.isFull
  }

  #view (task: Task, line: Line): TaskView {
    const view = taskView(task, line, this.#parts, this.#monitor)
    this.note(view.id, task)
    return view
  }

  /** Notes that a page shows a task of this process. */
  note (id: string, task: Task): void {
    this.#known.delete(id)
    this.#known.set(id, task)
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.keys().next().value as string)
  }

  #ownFailures ({ newestFirst }: Query, part: PageOfTasks): boolean {
    const failures = [...this.#monitor.failures.values()]
    for (const failure of newestFirst ? failures.reverse() : failures) {
      if (part.isFull) return false
      part.take(() => failureView(failure, this.#isRunnable(failure)))
    }
    return !part.isFull
  }

  #isRunnable ({ delivered, whole }: Failure): boolean {
    return delivered ? this.#parts.store!.can.retry : whole
  }

  async #stored (query: Query, part: PageOfTasks): Promise<void> {
    const store = this.#parts.store!
    const own = part.passed
    // Do not read the tasks before this page.
    let offset = Math.max(query.offset - own, 0)
    const here = query.list === 'running' ? this.#deliveries() : null
    while (!part.isFull) {
      const tasks = await store.page(STORED_LISTS[query.list], offset, TASKS_PER_READ, query.newestFirst)
      for (const [index, task] of tasks.entries()) {
        if (part.isFull) return
        // Count holes too: a task may have left the list meanwhile.
        part.passed = own + offset + index
        // BullMQ has what was cancelled while it ran among the failed ones.
        if (LIST_OF[task.state] !== query.list) part.skip()
        else part.take(() => this.#listed(task, here))
      }
      if (part.isFull) return
      offset += TASKS_PER_READ
      part.passed = own + offset
      const counts = this.#listing!.list?.counts
      if (tasks.length === 0 || (tasks.length < TASKS_PER_READ && (counts === undefined || offset >= counts[STORED_LISTS[query.list]]))) return
      await nextTurn()
    }
  }

  /** Adds the tasks of a backend without pages, which gives the first hundred of each state. Returns a note. */
  #listedOnly ({ list, search }: Query, part: PageOfTasks): string {
    const { list: listed } = this.#listing!
    const { name } = this.#parts.store!
    if (listed === null) return `${name} gives no list of its tasks.`
    const here = list === 'running' ? this.#deliveries() : null
    let count = 0
    for (const task of listed.tasks) {
      if (LIST_OF[task.state] !== list) continue
      count++
      part.take(() => this.#listed(task, here))
    }
    if (list === 'completed') return `${name} gives no list of completed tasks.`
    return count < listed.counts[STORED_LISTS[list]] ? `${name} gives the first ${count} of them only${search === '' ? '' : ', and no others are searched'}.` : ''
  }

  #listed (task: ListedTask, here: Map<string, { task: Task, line: Line }> | null): TaskView {
    const delivered = here?.get(task.id)
    // This process knows more of a task that runs here than the backend.
    if (delivered !== undefined) return this.#view(delivered.task, delivered.line)
    return { ...listedView(task, this.#parts.store!.can.retry), ...(task.state === 'running' && { silentSince: this.#listing!.silentSince(task) }) }
  }

  /** The backend's tasks that this process has, by id: no more than its worker takes. */
  #deliveries (): Map<string, { task: Task, line: Line }> {
    const here = new Map<string, { task: Task, line: Line }>()
    let left = this.#parts.ledger.deliveries
    for (const line of this.#parts.ledger.openLines()) {
      if (left === 0) break
      if (line.delivery === null) continue
      for (const task of line.tasks()) {
        here.set(task.ownId, { task, line })
        left--
      }
    }
    return here
  }

  async #details (id: string): Promise<TaskDetails | null> {
    const live = this.#known.get(id) ?? this.#deliveries().get(id)?.task ?? this.#parts.ledger.index.live(id)
    if (live !== undefined && live.owner !== null) return this.#live(live, live.owner as Line)
    const failure = this.#monitor.failures.get(id)
    if (failure !== undefined) return failureDetails(failure, this.#isRunnable(failure), this.#payloadOf(failure, failure))
    const record = await this.#parts.store?.read(id) ?? null
    if (record !== null) return recordDetails(record, this.#parts.store!.can.retry, this.#withPayload)
    const info = this.#parts.ledger.index.find(id) ?? await this.#parts.store?.find(id) ?? null
    return info === null ? null : endedDetails(info, this.#withPayload)
  }

  async #live (task: Task, line: Line): Promise<TaskDetails> {
    // An open page will ask how the task has ended.
    this.#parts.ledger.index.add(task)
    const details = liveDetails(task, line, this.#parts, this.#monitor, this.#payloadOf(task, task as { spec: Task['spec'], args: unknown[] }))
    if (line.delivery === null) return details
    // Earlier attempts may have run in another process.
    const record = await this.#parts.store!.read(details.id).catch(() => null)
    if (record === null) return details
    const { added, started, errors } = recordDetails(record, false, false)
    return { ...details, added, started: started ?? details.started, errors }
  }

  #payloadOf (key: object, { spec, args }: { spec: Task['spec'], args: readonly unknown[] }): string | null {
    if (!this.#withPayload) return null
    let payload = this.#payloads.get(key)
    if (payload === undefined) {
      payload = payloadOf(spec, args)
      this.#payloads.set(key, payload)
    }
    return payload
  }
}
