import type { Deliver, DeliveryEnd, StoredTask, TaskBackend, TaskInfo, ThreadRoom } from '../../types/backend'
import { LOCK_DURATION } from './durable-program'

/** A task of the server. */
interface Row {
  readonly task: StoredTask
  state: 'pending' | 'running' | 'completed' | 'failed' | 'cancelled'
  due: number
  /** Attempts that have ended. */
  attempts: number
  /** How often the task was handed out. A worker with a lower number has lost it. */
  delivery: number
  worker: MemoryBackend | null
  controller: AbortController
  result: unknown
  error: unknown
}

/** What happens to a delivery: see `DeliveryFault`. */
export type OnDelivery = (id: string) => 'none' | 'repeated' | 'repeated silently'

/** A server of tasks in memory, for the stub of the property test: what a backend has to be, in its plainest form. */
export class MemoryServer {
  readonly rows = new Map<string, Row>()
  readonly #workers = new Set<MemoryBackend>()
  readonly writes: number
  readonly onDelivery: OnDelivery
  /** A worker has lost a task that it may still run. */
  readonly onLost: (id: string) => void

  constructor (writes: number, onDelivery: OnDelivery, onLost: (id: string) => void) {
    this.writes = writes
    this.onDelivery = onDelivery
    this.onLost = onLost
  }

  connect (): TaskBackend {
    return new MemoryBackend(this)
  }

  insert (task: StoredTask): string {
    const { id, dedupe, delay } = task
    const known = this.rows.get(id)
    // A second write of the same task.
    if (known !== undefined && known.state !== 'cancelled') return id
    for (const row of this.rows.values()) {
      if (dedupe !== null && row.task.dedupe === dedupe && (row.state === 'pending' || row.state === 'running')) return row.task.id
    }
    this.rows.delete(id)
    this.rows.set(id, {
      task, state: 'pending', due: Date.now() + delay, attempts: 0, delivery: 0, worker: null, controller: new AbortController(), result: undefined, error: undefined
    })
    this.wakeIn(delay)
    return id
  }

  wakeIn (ms: number): void {
    if (ms > 0) setTimeout(() => this.wakeIn(0), ms)
    else for (const worker of this.#workers) worker.take()
  }

  join (worker: MemoryBackend): void {
    this.#workers.add(worker)
    worker.take()
  }

  leave (worker: MemoryBackend): void {
    this.#workers.delete(worker)
  }

  /** Hands a task out again. */
  release (row: Row): void {
    row.state = 'pending'
    row.worker = null
    this.wakeIn(0)
  }

  settle (row: Row, end: DeliveryEnd): void {
    row.worker = null
    if (end.state === 'not attempted') {
      row.due = Date.now() + end.delay
      this.release(row)
      return this.wakeIn(end.delay)
    }
    row.attempts++
    if (end.state === 'failed') {
      row.error = end.error
      if (row.attempts < row.task.attempts && (end.error as { name?: string } | null)?.name !== 'UnrecoverableError') {
        const { type, delay } = row.task.backoff ?? { type: 'fixed', delay: 0 }
        const wait = type === 'exponential' ? delay * 2 ** (row.attempts - 1) : delay
        row.due = Date.now() + wait
        this.release(row)
        return this.wakeIn(wait)
      }
    } else if (end.state === 'completed') {
      row.result = end.result
    }
    row.state = end.state
  }
}

class MemoryBackend implements TaskBackend {
  readonly name = 'memory'
  readonly writes: number
  readonly #server: MemoryServer
  #deliver!: Deliver
  #concurrency = 0
  /** What it runs, by delivery: it may have a task twice. */
  readonly #held = new Set<{ readonly row: Row, readonly delivery: number }>()

  constructor (server: MemoryServer) {
    this.#server = server
    this.writes = server.writes
  }

  async start (): Promise<void> {}

  async store (batches: StoredTask[][]): Promise<string[][]> {
    return batches.map(tasks => tasks.map(task => this.#server.insert(task)))
  }

  async work (concurrency: number, deliver: Deliver, _threads: ThreadRoom): Promise<void> {
    this.#deliver = deliver
    this.#concurrency = concurrency
    this.#server.join(this)
  }

  take (): void {
    for (const row of this.#server.rows.values()) {
      if (this.#held.size >= this.#concurrency) return
      if (row.state === 'pending' && row.due <= Date.now()) this.#run(row)
    }
  }

  async #run (row: Row): Promise<void> {
    const { task } = row
    const delivery = ++row.delivery
    const controller = row.controller = new AbortController()
    row.state = 'running'
    row.worker = this
    const held = { row, delivery }
    this.#held.add(held)
    const fault = this.#server.onDelivery(task.id)
    if (fault !== 'none') {
      setTimeout(() => {
        if (row.state !== 'running' || row.delivery !== delivery || row.worker !== this) return
        this.#held.delete(held)
        this.#server.onLost(task.id)
        this.#server.release(row)
        if (fault === 'repeated') controller.abort()
      }, 15)
    }
    const end = await this.#deliver({ task, attempt: row.attempts + 1, signal: controller.signal, progress: () => {} })
    this.#held.delete(held)
    if (row.state === 'running' && row.delivery === delivery) this.#server.settle(row, end)
    this.#server.wakeIn(0)
  }

  async pause (): Promise<void> {
    this.#server.leave(this)
  }

  async find (id: string): Promise<TaskInfo | null> {
    const row = this.#server.rows.get(id)
    if (row === undefined) return null
    const { task: { label: name }, state, attempts, result, error } = row
    return { id, name, state, attempts: state === 'running' ? attempts + 1 : attempts, progress: undefined, result, error }
  }

  async cancel (id: string): Promise<boolean> {
    const row = this.#server.rows.get(id)
    if (row?.state === 'pending') {
      row.state = 'cancelled'
      return true
    }
    if (row?.state !== 'running' || row.worker !== this || ![...this.#held].some(held => held.row === row && held.delivery === row.delivery)) return false
    row.controller.abort()
    return true
  }

  /** With 0, as after a crash: what it ran is handed out when its leases have ended. */
  async close (ms: number): Promise<void> {
    this.#server.leave(this)
    if (ms !== 0 && this.#held.size !== 0) await new Promise(resolve => { setTimeout(resolve, ms) })
    const held = [...this.#held]
    const release = () => {
      for (const { row, delivery } of held) {
        if (row.state !== 'running' || row.delivery !== delivery) continue
        row.delivery++
        this.#server.release(row)
      }
    }
    if (ms === 0) setTimeout(release, LOCK_DURATION)
    else release()
  }
}
