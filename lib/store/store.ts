import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, ListedTask, ListName, LogOf, ScheduleState, StoredSchedule, StoredTask, TaskBackend, TaskDefaults, TaskList, TaskRecord, ThreadRoom } from '../../types/backend'
import type { TaskInfo } from '../../types/task'
import { MAX_TIMER_MS } from '../shared/check-options'
import { within } from '../shared/deadline'
import { FST_BGT_BACKEND_FAILED, FST_BGT_MISSING_PACKAGE, FST_BGT_NODE_VERSION, FST_BGT_STORE_FAILED, FST_BGT_UNSUPPORTED } from '../shared/errors'
import { reasonOf } from '../shared/show'
import { eachInGroups } from '../shared/slices'
import { clearTimeout, setImmediate, setTimeout } from '../shared/timers'
import { writeLog } from '../shared/write-log'
import { Batch } from './batch'

/** The most tasks of one write, unless a single request has more: a write must not block the server for long. */
const MAX_TASKS_PER_WRITE = 1_000

/**
 * With a backend that takes any number of writes, this many waiting requests are written before the end of the turn, so that its
 * server works while this process goes on.
 */
const EARLY_WRITE_BATCHES = 8

/** The form of a task id. An id from a URL must not reach other keys on the backend's server. */
const TASK_ID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/

/** The backends of the applications that are open. */
const inUse = new WeakSet<TaskBackend>()

/**
 * Writes to one backend, by group commit: requests of one turn of the event loop share a write (docs/design.md, "A 2xx means stored").
 * Made at registration, ends with the application.
 */
export class Store {
  readonly #backend: TaskBackend
  readonly #timeout: number
  /** Batches without a write, in the order in which they will be written. */
  readonly #waiting = new Set<Batch>()
  /** Writes under way. */
  #writing = 0
  #scheduled = false
  /** Whether a write with dedupe ids is under way, where these have one of their own. */
  #dedupeWriting = false
  /** Batches that the backend has not answered. */
  readonly #underWay = new Set<Batch>()
  /** Tasks, by id, that were refused during their write. If the backend stored them after all, they are cancelled. */
  readonly #refused = new Map<string, Batch>()
  /** Whether the backend's start has begun, so that it must be closed. */
  #started = false
  #open = false
  #log: FastifyBaseLogger | null = null
  #logOf: LogOf | null = null
  /** Whether the backend can no longer be called. */
  closed = false
  #closing: Promise<void> | null = null

  constructor (backend: TaskBackend, timeout: number) {
    this.#backend = backend
    this.#timeout = timeout
  }

  /** Connects the backend. Batches added before wait until then. */
  async open (log: FastifyBaseLogger, logOf: LogOf, definitions: ReadonlyMap<string, TaskDefaults>): Promise<void> {
    this.#log = log
    this.#logOf = logOf
    await this.#begin(this.#start(log, logOf, definitions))
    this.#open = true
    for (const batch of this.#waiting) this.#arm(batch)
    this.#schedule()
  }

  async #start (log: FastifyBaseLogger, logOf: LogOf, definitions: ReadonlyMap<string, TaskDefaults>): Promise<void> {
    // A backend has one connection and one worker.
    if (inUse.has(this.#backend)) throw new Error('a second registration of the plugin while the first one uses it: make a backend for each')
    inUse.add(this.#backend)
    this.#started = true
    await this.#backend.start(log, logOf, this.#timeout, definitions)
  }

  /** Makes the backend hand out its tasks. */
  async work (concurrency: number, deliver: Deliver, threads: ThreadRoom): Promise<void> {
    await this.#begin(this.#backend.work(concurrency, deliver, threads))
  }

  async #begin (action: Promise<void>): Promise<void> {
    try {
      await this.#answer(action)
    } catch (cause) {
      const error = cause instanceof FST_BGT_MISSING_PACKAGE || cause instanceof FST_BGT_NODE_VERSION ? cause : new FST_BGT_BACKEND_FAILED(this.#backend.name, reasonOf(cause), { cause })
      for (const batch of this.#waiting) this.#refuse(batch, error)
      // Not awaited: if the server does not answer, Fastify's start timeout would come first, with a vaguer error.
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
    // A second try: the tasks must stay if the first write stored them.
    for (const { id } of tasks) this.#refused.delete(id)
    if (this.closed) {
      this.#refuse(batch, new Error('the application has closed'))
    } else {
      this.#waiting.add(batch)
      if (this.#open) {
        this.#arm(batch)
        if (this.#waiting.size >= EARLY_WRITE_BATCHES && this.#backend.writes === Infinity) this.#write()
        else this.#schedule()
      }
    }
    return batch.stored
  }

  /** @throws FST_BGT_UNSUPPORTED, FST_BGT_STORE_FAILED before the start */
  assertTakesTransactions (): void {
    const { name, refuses, storeInTransaction } = this.#backend
    if (storeInTransaction === undefined) {
      const reason = refuses?.transaction ?? 'its store takes no part in the transaction of a database'
      throw new FST_BGT_UNSUPPORTED(name, 'addInTransaction', `${reason}; write the task to a table of your own in the transaction, or add it after the commit`)
    }
    if (!this.#open) throw this.refusal(new Error('the application has not started'))
  }

  /** Stores a task by a connection of the user's: see `TaskBackend.storeInTransaction`. */
  addInTransaction (client: unknown, task: StoredTask): string | Promise<string> {
    return this.#backend.storeInTransaction!(client, task)
  }

  #arm (batch: Batch): void {
    batch.arm(this.#timeout, () => this.#refuse(batch, new Error(`no answer within ${this.#timeout} ms`)))
  }

  #refuse (batch: Batch, cause: unknown): void {
    this.#backend.redact?.(cause)
    // A refused batch must not be written later.
    if (!this.#waiting.delete(batch)) for (const { id } of batch.tasks) this.#refused.set(id, batch)
    batch.reject(this.refusal(cause))
  }

  /** The error of tasks that the backend has not stored. */
  refusal (cause: unknown): Error {
    return new FST_BGT_STORE_FAILED(this.#backend.name, reasonOf(cause), { cause })
  }

  #schedule (): void {
    if (this.#scheduled || this.#writing === this.#backend.writes || this.#waiting.size === 0) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (this.#waiting.size !== 0) this.#write()
    })
  }

  #write (): void {
    const batches = this.#takeBatches()
    if (batches.length === 0) return
    const isDeduped = this.#hasOwnWrite(batches[0]!)
    if (isDeduped) this.#dedupeWriting = true
    this.#writing++
    this.#schedule()
    let over = false
    const end = () => {
      if (over) return
      over = true
      clearTimeout(timer)
      this.#writing--
      if (isDeduped) this.#dedupeWriting = false
      // Write before the replies are sent, so that the server works meanwhile.
      if (this.#writing + 1 === this.#backend.writes && this.#waiting.size !== 0) this.#write()
      else this.#schedule()
    }
    // A write that never answers must not block the next one for ever.
    const timer = setTimeout(end, this.#timeout).unref()
    for (const batch of batches) this.#underWay.add(batch)
    this.#backend.store(batches.map(batch => batch.tasks)).then(results => {
      end()
      this.#stored(batches, results)
    }, error => {
      end()
      for (const batch of batches) this.#refuse(batch, error)
    }).finally(() => this.#forget(batches))
  }

  /**
   * Whether a batch shares no write with others: a transaction of the user's may hold a dedupe id for long. One write at a time has such
   * ids, so that others go on.
   */
  #hasOwnWrite ({ tasks }: Batch): boolean {
    return this.#backend.writes !== 1 && this.#backend.writes !== Infinity && tasks.some(({ dedupe }) => dedupe !== null)
  }

  /** The batches of one write; none if all that wait have dedupe ids, and such a write is under way. */
  #takeBatches (): Batch[] {
    const taken: Batch[] = []
    let size = 0
    let isDeduped = false
    for (const batch of this.#waiting) {
      const hasOwnWrite = this.#hasOwnWrite(batch)
      if (hasOwnWrite && this.#dedupeWriting) continue
      if (taken.length === 0) isDeduped = hasOwnWrite
      else if (hasOwnWrite !== isDeduped) continue
      size += batch.tasks.length
      if (taken.length !== 0 && size > MAX_TASKS_PER_WRITE) break
      taken.push(batch)
      this.#waiting.delete(batch)
    }
    return taken
  }

  #stored (batches: Batch[], results: Array<string[] | Error>): void {
    batches.forEach((batch, index) => {
      const result = results[index] as string[] | Error
      if (result instanceof Error) return this.#refuse(batch, result)
      // Too late: the client already got a 503.
      if (!batch.resolve(result)) this.#cancelStored(batch)
    })
  }

  #cancelStored (batch: Batch): void {
    // Not with a dedupe id: another request may have got its 2xx for this task.
    const tasks = batch.tasks.filter(({ id, dedupe }) => dedupe === null && this.#refused.get(id) === batch)
    eachInGroups(tasks, ({ id, label, requestId }) => this.cancel(id, label, requestId)).catch(() => {})
  }

  /** Called when no answer to the write can come any more. */
  #forget (batches: Batch[]): void {
    for (const batch of batches) {
      this.#underWay.delete(batch)
      for (const { id } of batch.tasks) if (this.#refused.get(id) === batch) this.#refused.delete(id)
    }
  }

  async find (id: string): Promise<TaskInfo | null> {
    if (!this.#open || !TASK_ID.test(id)) return null
    return this.#answer(this.#backend.find(id))
  }

  /**
   * Cancels a task, whatever process added it.
   * @param name the task's name, for the log, if known
   * @param requestId the id of its request, for the log, if known
   */
  async cancel (id: string, name?: string, requestId: string | null = null): Promise<boolean> {
    const cancelled = this.#open && TASK_ID.test(id) && await this.#answer(this.#backend.cancel(id))
    // A task that waits in the backend has no other log line.
    if (cancelled) writeLog(() => this.#logOf!(requestId), 'debug', 'background task cancelled in the backend', () => ({ task: { id, name } }))
    return cancelled
  }

  /** The backend's tasks, at most `limit` of each state; `null` if it has no `list`. */
  async list (limit: number): Promise<TaskList | null> {
    if (!this.#open || this.#backend.list === undefined) return null
    return this.#answer(this.#backend.list(limit))
  }

  /** Makes the backend run a failed task again. Resolves with `false` if it cannot. */
  async retry (id: string): Promise<boolean> {
    return this.#open && TASK_ID.test(id) && this.#answer(this.#backend.retry?.(id) ?? Promise.resolve(false))
  }

  /** A part of one of the backend's lists; empty if it has no `page`. */
  async page (list: ListName, offset: number, limit: number, newestFirst: boolean): Promise<ListedTask[]> {
    if (!this.#open || this.#backend.page === undefined) return []
    return this.#answer(this.#backend.page(list, offset, limit, newestFirst))
  }

  /** The backend's record of a task; `null` if it has none. */
  async read (id: string): Promise<TaskRecord | null> {
    if (!this.#open || !TASK_ID.test(id)) return null
    return this.#answer(this.#backend.read?.(id) ?? Promise.resolve(null))
  }

  /** Removes a failed task of the backend for good. */
  async remove (id: string): Promise<boolean> {
    return this.#open && TASK_ID.test(id) && this.#answer(this.#backend.remove?.(id) ?? Promise.resolve(false))
  }

  /** Makes the backend store the runs of schedules, and remove those of before; of no effect with a backend that has none. */
  async schedule (schedules: StoredSchedule[], tasks: string[]): Promise<void> {
    await this.#begin(this.#backend.schedule?.(schedules, tasks) ?? Promise.resolve())
  }

  /** The state of schedules; empty before the start, and after the close. */
  async schedules (ids: string[]): Promise<ScheduleState[]> {
    return this.#open ? this.#answer(this.#backend.schedules!(ids)) : []
  }

  /** The optional methods that the backend has. */
  get can (): { list: boolean, page: boolean, retry: boolean, remove: boolean, resume: boolean } {
    const { list, page, retry, remove, resume } = this.#backend
    return { list: list !== undefined, page: page !== undefined, retry: retry !== undefined, remove: remove !== undefined, resume: resume !== undefined }
  }

  /** Makes the backend hand out tasks again. Resolves with `false` if it cannot, or the application closes. */
  async resume (): Promise<boolean> {
    if (!this.#open || this.#backend.resume === undefined) return false
    await this.#answer(this.#backend.resume())
    return true
  }

  get name (): string {
    return this.#backend.name
  }

  /** Why a task could not be cancelled, for the log. */
  get whyNotCancelled (): string {
    return this.#backend.keepsWaiting ?? 'it has begun'
  }

  /** Makes the backend hand out no more tasks. Tasks can still be stored. */
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
    // An answer comes too late. The deadline would keep the process alive.
    for (const batch of this.#underWay) this.#refuse(batch, new Error('the application has closed'))
    const closing = this.#backend.close(this.#timeout).finally(() => inUse.delete(this.#backend))
    await this.#try(closing, Math.min(this.#timeout + CLOSE_GRACE_MS, MAX_TIMER_MS))
  }

  /** Waits for an answer of the backend, for `storeTimeout` at most. */
  async #answer<T> (answer: Promise<T>): Promise<T> {
    try {
      return await within(this.#timeout, answer)
    } catch (error) {
      this.#backend.redact?.(error)
      throw error
    }
  }

  async #try (action: Promise<void>, ms: number): Promise<void> {
    try {
      await within(ms, action)
    } catch (err) {
      this.#backend.redact?.(err)
      writeLog(() => this.#log!, 'error', `${this.#backend.name} could not be closed`, () => ({ err }))
    }
  }
}

/** Time, after `storeTimeout`, for a backend to break its connections. */
const CLOSE_GRACE_MS = 1_000
