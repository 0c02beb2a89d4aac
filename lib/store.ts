import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, StoredTask, TaskBackend, TaskList } from './backends/backend'
import { MAX_TIMER } from './check-options'
import { setDeadline } from './deadline'
import type { Definition } from './define-task'
import { FST_BGT_BACKEND_FAILED, FST_BGT_MISSING_PACKAGE, FST_BGT_NODE_VERSION, FST_BGT_STORE_FAILED } from './errors'
import type { Line } from './line'
import { propagation, type Carrier } from './propagation'
import { reasonOf } from './received'
import type { LogOf } from './request-log'
import type { Runtime } from './runtime'
import { COLLECTING, PENDING, STORED, type Task } from './task'
import type { TaskInfo } from './task-index'
import type { TaskSpec } from './task-options'
import { writeLog } from './write-log'

/** Tasks of one request that wait to be stored. */
class Batch {
  readonly tasks: StoredTask[]
  readonly stored: Promise<string[]>
  #clearDeadline: (() => void) | null = null
  #over = false
  #resolve!: (ids: string[]) => void
  #reject!: (error: unknown) => void

  constructor (tasks: StoredTask[]) {
    this.tasks = tasks
    this.stored = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  /** Lets its time begin. */
  arm (ms: number, tooLate: () => void): void {
    this.#clearDeadline = setDeadline(ms, tooLate)
  }

  /** Returns `false` if it has been refused meanwhile. */
  resolve (ids: string[]): boolean {
    if (this.#over) return false
    this.#end()
    this.#resolve(ids)
    return true
  }

  reject (error: unknown): void {
    this.#end()
    this.#reject(error)
  }

  #end (): void {
    this.#over = true
    this.#clearDeadline?.()
  }
}

/** At most so many tasks a write, unless a single request has more: a server must not be held up for long. */
const MAX_WRITE = 1_000

/**
 * Where a backend takes any number of writes, so many requests do not wait for the others of their turn: its server has
 * something to do then while this process goes on.
 */
const EARLY_WRITE = 8

/** What ids look like; whoever asks for another one, perhaps from a URL, shall not reach other things that a server keeps. */
const ID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/

/** The backends of the applications that are open. */
const inUse = new WeakSet<TaskBackend>()

/**
 * Group commit: the requests of one turn of the event loop share a write, or a few where the backend takes any number. While
 * the backend has as many under way as it takes, those of later turns gather, and the next write takes them all. So a
 * request waits for two round trips at the most, however many come at once.
 */
export class Store {
  readonly #backend: TaskBackend
  readonly #timeout: number
  #waiting: Batch[] = []
  /** Writes under way. */
  #writing = 0
  #scheduled = false
  /** Tasks that were refused while they were being written, and may be stored after all: to be called off then. */
  readonly #refused = new Map<string, Batch>()
  /** The backend is to be closed: its start has begun. */
  #started = false
  #open = false
  #log: FastifyBaseLogger | null = null
  #logOf: LogOf | null = null
  /** Nothing can be asked any more. */
  closed = false
  #closing: Promise<void> | null = null

  constructor (backend: TaskBackend, timeout: number) {
    this.#backend = backend
    this.#timeout = timeout
  }

  /** Connects the backend. What is added before waits until then. */
  async open (log: FastifyBaseLogger, logOf: LogOf): Promise<void> {
    this.#log = log
    this.#logOf = logOf
    await this.#begin(this.#start(log, logOf))
    this.#open = true
    for (const batch of this.#waiting) this.#arm(batch)
    this.#schedule()
  }

  async #start (log: FastifyBaseLogger, logOf: LogOf): Promise<void> {
    // It has one connection and one worker.
    if (inUse.has(this.#backend)) throw new Error('a second registration of the plugin while the first one uses it: make a backend for each')
    inUse.add(this.#backend)
    this.#started = true
    await this.#backend.start(log, logOf)
  }

  /** Has the backend hand out its tasks. */
  async work (concurrency: number, deliver: Deliver): Promise<void> {
    await this.#begin(this.#backend.work(concurrency, deliver))
  }

  async #begin (action: Promise<void>): Promise<void> {
    try {
      await within(this.#timeout, action)
    } catch (cause) {
      const error = cause instanceof FST_BGT_MISSING_PACKAGE || cause instanceof FST_BGT_NODE_VERSION ? cause : new FST_BGT_BACKEND_FAILED(this.#backend.name, reasonOf(cause), { cause })
      for (const batch of this.#waiting) this.#refuse(batch, error)
      // Not waited for: where the server does not answer, Fastify's own limit for a start would be reached, and would
      // say less.
      this.close()
      throw error
    }
  }

  /**
   * Resolves, when the tasks are stored, with the id of each. A batch is stored whole or refused whole.
   * @throws FST_BGT_STORE_FAILED after `storeTimeout` at the latest
   */
  add (tasks: StoredTask[]): Promise<string[]> {
    const batch = new Batch(tasks)
    // Tried once more: what the first write has stored must stay.
    for (const { id } of tasks) this.#refused.delete(id)
    if (this.closed) {
      this.#refuse(batch, new Error('the application has closed'))
    } else {
      this.#waiting.push(batch)
      if (this.#open) {
        this.#arm(batch)
        if (this.#waiting.length >= EARLY_WRITE && this.#backend.writes === Infinity) this.#write()
        else this.#schedule()
      }
    }
    return batch.stored
  }

  #arm (batch: Batch): void {
    batch.arm(this.#timeout, () => this.#refuse(batch, new Error(`no answer within ${this.#timeout} ms`)))
  }

  #refuse (batch: Batch, cause: unknown): void {
    const waiting = this.#waiting.length
    // One that is not being written yet must not be written after it was refused.
    this.#waiting = this.#waiting.filter(other => other !== batch)
    if (this.#waiting.length === waiting) for (const { id } of batch.tasks) this.#refused.set(id, batch)
    batch.reject(this.refusal(cause))
  }

  /** The error of tasks that the backend has not got. */
  refusal (cause: unknown): Error {
    return new FST_BGT_STORE_FAILED(this.#backend.name, reasonOf(cause), { cause })
  }

  #schedule (): void {
    if (this.#scheduled || this.#writing === this.#backend.writes || this.#waiting.length === 0) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (this.#waiting.length !== 0) this.#write()
    })
  }

  #write (): void {
    const batches = this.#takeBatches()
    this.#writing++
    this.#schedule()
    let over = false
    const end = () => {
      if (over) return
      over = true
      clearTimeout(timer)
      this.#writing--
      // Before the replies: the server has something to do while they are sent.
      if (this.#writing + 1 === this.#backend.writes && this.#waiting.length !== 0) this.#write()
    }
    // One that never answers must not keep the next write waiting for ever.
    const timer = setTimeout(end, this.#timeout)
    this.#backend.store(batches.map(batch => batch.tasks)).then(results => {
      end()
      this.#stored(batches, results)
    }, error => {
      end()
      for (const batch of batches) this.#refuse(batch, error)
    }).finally(() => this.#forget(batches))
  }

  #takeBatches (): Batch[] {
    let count = 0
    let size = 0
    for (const { tasks } of this.#waiting) {
      size += tasks.length
      if (count !== 0 && size > MAX_WRITE) break
      count++
    }
    return this.#waiting.splice(0, count)
  }

  #stored (batches: Batch[], results: Array<string[] | Error>): void {
    batches.forEach((batch, index) => {
      const result = results[index] as string[] | Error
      if (result instanceof Error) return this.#refuse(batch, result)
      // An answer that came too late: the client has been told that nothing is stored.
      if (!batch.resolve(result)) this.#callOff(batch)
    })
  }

  #callOff (batch: Batch): void {
    for (const { id, label, requestId, dedupe } of batch.tasks) {
      // One with a dedupe id may have been taken for the task of somebody else, who has his 2xx for it.
      if (dedupe === null && this.#refused.get(id) === batch) this.cancel(id, label, requestId).catch(() => {})
    }
  }

  /** No more answer can come. */
  #forget (batches: Batch[]): void {
    for (const batch of batches) {
      for (const { id } of batch.tasks) if (this.#refused.get(id) === batch) this.#refused.delete(id)
    }
  }

  async find (id: string): Promise<TaskInfo | null> {
    if (!this.#open || !ID.test(id)) return null
    return within(this.#timeout, this.#backend.find(id))
  }

  /**
   * Calls a task off, wherever it was added.
   * @param name of the task, and the id of its request, for the log, where they are known
   */
  async cancel (id: string, name?: string, requestId: string | null = null): Promise<boolean> {
    const done = this.#open && ID.test(id) && await within(this.#timeout, this.#backend.cancel(id))
    // Where it waits nothing else tells of it.
    if (done) writeLog(() => this.#logOf!(requestId), 'debug', 'background task cancelled in the backend', () => ({ task: { id, name } }))
    return done
  }

  /** What the backend has; `null` if it cannot tell. */
  async list (limit: number): Promise<TaskList | null> {
    if (!this.#open || this.#backend.list === undefined) return null
    return within(this.#timeout, this.#backend.list(limit))
  }

  /** Has a failed task of the backend run again. */
  async retry (id: string): Promise<boolean> {
    return this.#open && ID.test(id) && within(this.#timeout, this.#backend.retry?.(id) ?? Promise.resolve(false))
  }

  /** Whether the backend can have a failed task run again. */
  get retries (): boolean {
    return this.#backend.retry !== undefined
  }

  get name (): string {
    return this.#backend.name
  }

  /** Has the backend hand out no more. What is still to be stored is stored. */
  async pause (): Promise<void> {
    if (this.#open) await this.#try(this.#backend.pause(), this.#timeout)
  }

  /** Disconnects the backend, whether its server answers or not. Once for all callers. */
  close (): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close (): Promise<void> {
    this.#open = false
    this.closed = true
    for (const batch of this.#waiting) this.#refuse(batch, new Error('the application has closed'))
    if (!this.#started) return
    const closing = this.#backend.close(this.#timeout).finally(() => inUse.delete(this.#backend))
    await this.#try(closing, Math.min(this.#timeout + CLOSE_GRACE, MAX_TIMER))
  }

  async #try (action: Promise<void>, ms: number): Promise<void> {
    try {
      await within(ms, action)
    } catch (err) {
      writeLog(() => this.#log!, 'error', `${this.#backend.name} could not be closed`, () => ({ err }))
    }
  }
}

/** Milliseconds that a backend has to disconnect the hard way. */
const CLOSE_GRACE = 1_000

/** Rejects when something takes longer than so many ms. */
async function within<T> (ms: number, promise: Promise<T>): Promise<T> {
  let clear!: () => void
  const tooLate = new Promise<never>((_resolve, reject) => {
    clear = setDeadline(ms, () => reject(new Error(`no answer within ${ms} ms`)))
  })
  try {
    return await Promise.race([promise, tooLate])
  } finally {
    clear()
  }
}

/** Whether a task goes to the backend. */
export function isDurable (task: Task, runtime: Runtime): boolean {
  return runtime.store !== null && task.spec !== null && task.spec.definition !== null && !task.spec.local
}

/**
 * Hands tasks over to the backend. When that has them they are settled here, as `stored`.
 * @throws FST_BGT_STORE_FAILED: then they are collected, as they were before
 */
export function handOver (tasks: Task[], runtime: Runtime): Promise<void> {
  const store = runtime.store as Store
  const lines = tasks.map(task => task.line as Line)
  for (const task of tasks) {
    runtime.ledger.move(task, PENDING)
    task.extra.store = store
    task.extra.requestId = (task.line as Line).requestId
  }
  const stored = send(tasks, store)
  for (const task of tasks) task.extra.way = stored
  return stored.then(ids => arrived(tasks, lines, ids, runtime), error => notArrived(tasks, error, runtime))
}

function send (tasks: Task[], store: Store): Promise<string[]> {
  try {
    return store.add(tasks.map(toStored))
  } catch (error) {
    // An instrumentation has thrown.
    return Promise.reject(store.refusal(error))
  }
}

function arrived (tasks: Task[], lines: Line[], ids: string[], { store, report }: Runtime): void {
  tasks.forEach((task, index) => {
    const line = lines[index] as Line
    if (task.isSettled) {
      // Called off, or replaced, while it was on its way.
      store!.cancel(task.ownId, task.name, line.requestId).catch(error => report.notCalledOff(task, line, error))
    } else if (ids[index] === task.ownId) {
      line.settle(task, STORED)
    } else {
      line.drop(task, `its dedupe id is taken by task ${ids[index]}`)
    }
  })
}

function notArrived (tasks: Task[], error: unknown, { ledger }: Runtime): never {
  for (const task of tasks) {
    if (task.status === PENDING) ledger.move(task, COLLECTING)
    propagation()?.refused(task, error)
  }
  throw error
}

function toStored (task: Task): StoredTask {
  const { definition, attempts, backoff, delay, timeout, dedupe } = task.spec as TaskSpec
  return {
    id: task.ownId,
    name: (definition as Definition).name,
    label: task.name,
    payload: (task.payload as string | undefined) ?? null,
    requestId: (task.line as Line).requestId,
    attempts,
    backoff,
    delay,
    timeout,
    dedupe,
    carrier: carrierOf(task)
  }
}

/** Taken in the async context of the place that added the task, as its trace goes on there. */
function carrierOf (task: Task): Carrier | null {
  const active = propagation()
  return active === null ? null : task.run(() => active.inject(task), []) as Carrier
}

/** Lets go of the source of a streamed reply that will not be sent. */
export function discard (payload: unknown): void {
  const { body, destroy, cancel } = (payload ?? {}) as { body?: unknown, destroy?: () => void, cancel?: () => Promise<void> }
  if (typeof destroy === 'function') destroy.call(payload)
  else if (typeof cancel === 'function') cancel.call(payload).catch(() => {})
  // A Response of the fetch standard.
  else if (typeof body === 'object') discard(body)
}
