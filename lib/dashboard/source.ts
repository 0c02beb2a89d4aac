import type { ListedTask, TaskList } from '../backends/backend'
import { reasonOf } from '../received'
import type { Runtime } from '../runtime'
import type { Store } from '../store'
import { COLLECTING, COMPLETED, PENDING, RUNNING, type Task } from '../task'
import type { DashboardOptions } from './index'
import { Monitor, type Second } from './monitor'
import { failureView, listedFailure, listedView, payloadOf, stateOf, taskView, type FailureView, type TaskView, type ViewState } from './views'

/** One look at everything. */
export interface Snapshot {
  now: number
  /** What a page knows already is replaced by this, and not completed by it. */
  full: boolean
  stuckAfter: number
  /** `null` for no limit. */
  concurrency: number | null
  /** How many of those places are taken, also by what waits for a thread. */
  taken: number
  /** Of this process. */
  counts: { running: number, waiting: number, delayed: number, retrying: number, collecting: number, completed: number }
  /** Of all that use the backend; `null` without one, or if it cannot tell. */
  backend: { name: string, counts: TaskList['counts'] | null, error: string | null } | null
  /** Not all of them, if there are many: the counts are whole. */
  tasks: TaskView[]
  /** The seconds that are over since the last look. */
  seconds: Second[]
  failures: { added: FailureView[], removed: string[] }
}

/** How many tasks of one state are shown. */
const SHOWN = 100
/** How many tasks of this process are looked at, those of the oldest requests first; of the others only what runs. */
const LOOKED_AT = 5_000
/** Milliseconds between two questions to the backend. */
const BACKEND_INTERVAL = 2_000

/**
 * Where the page's figures come from: the tasks of this process, and those that the backend lists, as if there were but
 * one place. It reads, and changes nothing.
 */
export class Source {
  readonly #runtime: Runtime
  readonly #monitor: Monitor
  readonly #options: Required<DashboardOptions>
  /** The tasks of this process that the pages show, to be cancelled from there. */
  #shown = new Map<string, Task>()
  /** What the shown tasks were given, written out once: that may take long. */
  #payloads = new WeakMap<Task, string>()
  /** What the pages have been told of. */
  #told = new Map<string, FailureView>()
  #toldUntil = 0
  #listed: TaskList | null = null
  #listFailed: string | null = null
  #askedAt = -Infinity
  #asking: Promise<unknown> | null = null

  constructor (runtime: Runtime, monitor: Monitor, options: Required<DashboardOptions>) {
    this.#runtime = runtime
    this.#monitor = monitor
    this.#options = options
  }

  /** What a new page has to know. */
  whole (): Snapshot {
    const failures = this.#failures()
    return { ...this.#look(), full: true, seconds: this.#monitor.secondsFrom(0), failures: { added: [...failures.values()], removed: [] } }
  }

  /** What those pages have to know that have got all the others. */
  next (): Snapshot {
    const seconds = this.#monitor.secondsFrom(this.#toldUntil + 1)
    this.#toldUntil = seconds.at(-1)?.at ?? this.#toldUntil
    const told = this.#told
    this.#told = this.#failures()
    const added = [...this.#told.values()].filter(({ id, at }) => told.get(id)?.at !== at)
    const removed = [...told.keys()].filter(id => !this.#told.has(id))
    return { ...this.#look(), full: false, seconds, failures: { added, removed } }
  }

  /** Nobody looks: nothing is kept for that. */
  rest (): void {
    this.#shown = new Map()
    this.#payloads = new WeakMap()
    this.#told = new Map()
    this.#listed = this.#listFailed = null
    this.#askAnew()
  }

  /** A task of this process that a page shows. */
  shown (id: string): Task | undefined {
    return this.#shown.get(id)
  }

  /** A task has been called off, or runs again, which the list that the backend gave last does not know. */
  forget (id: string): void {
    if (this.#listed !== null) {
      const { counts, tasks } = this.#listed
      this.#listed = { counts, tasks: tasks.filter(task => task.id !== id) }
    }
    this.#askAnew()
  }

  /** What the backend has been asked for before says nothing of what has happened since. */
  #askAnew (): void {
    this.#asking = null
    this.#askedAt = -Infinity
  }

  #look (): Omit<Snapshot, 'full' | 'seconds' | 'failures'> {
    const { ledger, options, store, threads } = this.#runtime
    const waitingForThread = threads?.waiting ?? 0
    if (store !== null) this.#ask(store)
    return {
      now: Date.now(),
      stuckAfter: this.#options.stuckAfter,
      concurrency: options.concurrency === Infinity ? null : options.concurrency,
      taken: ledger.count(RUNNING),
      counts: {
        running: ledger.count(RUNNING) - waitingForThread,
        waiting: ledger.count(PENDING) - ledger.waiting + waitingForThread,
        delayed: ledger.delayed,
        retrying: ledger.waiting - ledger.delayed,
        collecting: ledger.count(COLLECTING),
        completed: ledger.count(COMPLETED)
      },
      backend: store === null ? null : { name: store.name, counts: this.#listed?.counts ?? null, error: this.#listFailed },
      tasks: this.#tasks()
    }
  }

  #tasks (): TaskView[] {
    const shown = new Map<string, Task>()
    const views = new Map<string, TaskView>()
    for (const task of this.#listed?.tasks ?? []) {
      if (isUnsettled(task)) views.set(task.id, listedView(task, this.#options.payload))
    }
    const room: Record<ViewState, number> = { running: SHOWN, waiting: SHOWN, delayed: SHOWN, retrying: SHOWN, collecting: SHOWN }
    let left = LOOKED_AT
    for (const line of this.#runtime.ledger.oldestOpenLines()) {
      // An event stream that is open for hours may have nothing to do.
      if (line.unsettled === 0) continue
      for (const task of line.tasks()) {
        // The first of its line, if it runs: it may be stuck.
        if (left-- <= 0 && task.status !== RUNNING) break
        if (room[stateOf(task)]-- <= 0) continue
        const view = taskView(task, line, this.#runtime, this.#monitor)
        if (this.#options.payload) view.payload = this.#payloadOf(task)
        // Of a task that runs here, this process knows more than the backend.
        views.set(view.id, view)
        shown.set(view.id, task)
      }
    }
    this.#shown = shown
    return [...views.values()].sort((a, b) => Number(a.since) - Number(b.since))
  }

  #payloadOf (task: Task): string {
    let payload = this.#payloads.get(task)
    if (payload === undefined) {
      payload = payloadOf(task.spec, task.args as unknown[])
      this.#payloads.set(task, payload)
    }
    return payload
  }

  /** The oldest first. */
  #failures (): Map<string, FailureView> {
    const { payload } = this.#options
    const retries = this.#runtime.store?.retries === true
    const views = new Map<string, FailureView>()
    for (const failure of this.#monitor.failures.values()) {
      // An error does not change: it is written out once.
      const told = this.#told.get(failure.id)
      views.set(failure.id, told?.at === failure.at ? told : failureView(failure, failure.delivered ? retries : failure.whole, payload))
    }
    for (const task of this.#listed?.tasks ?? []) {
      if (task.state === 'failed' && !views.has(task.id)) views.set(task.id, listedFailure(task, retries, payload))
    }
    return views
  }

  /** Has the backend's tasks ready for a later look: the page of this process must not wait for a server. */
  #ask (store: Store): void {
    const now = Date.now()
    if (this.#asking !== null || now - this.#askedAt < BACKEND_INTERVAL) return
    this.#askedAt = now
    const asking = this.#asking = store.list(SHOWN).then(list => ({ list, failed: null }), error => ({ list: null, failed: String(reasonOf(error)) }))
    asking.then(({ list, failed }) => {
      if (this.#asking !== asking) return
      this.#asking = null
      this.#listed = list
      this.#listFailed = failed
    })
  }
}

function isUnsettled (task: ListedTask): task is ListedTask & { state: ViewState } {
  return task.state !== 'failed'
}
