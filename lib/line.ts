import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Add } from './add'
import type { Carrier } from './propagation'
import type { Runtime } from './runtime'
import { CANCELLED, DROPPED, PENDING, RUNNING, type Task } from './task'

/**
 * Tasks that run one after the other, in the order they were added: those of one request, or a single one that was
 * added to the application. Lines do not wait for each other.
 */
export class Line {
  readonly runtime: Runtime
  readonly request: FastifyRequest | null
  /** The tasks that may run, linked through `next`. Some may have been settled meanwhile: `shift` passes them over. */
  #head: Task | null = null
  #tail: Task | null = null
  /** The task that runs; the next one has to wait for it. */
  current: Task | null = null
  /** Under `onFailure: 'stop'`, the task whose next attempt the whole line waits for. */
  held: Task | null = null
  /** Tasks that wait for a timer, outside the line. */
  #waiting: Set<Task> | null = null
  /** Accepted tasks that have no final state yet. */
  unsettled = 0
  /** Functions that still run although their task has been given up. */
  abandoned = 0
  /** The runner's queue of lines that have something to run. */
  queued = false
  nextReady: Line | null = null
  /** The ledger's list of open lines. Intrusive: a `Set` would cost more than all the rest of a small request. */
  open = false
  previousOpen: Line | null = null
  nextOpen: Line | null = null
  /** What the promise of a plain function calls, bound once a line instead of once a task. */
  onFulfilled: ((value: unknown) => void) | null = null
  onRejected: ((error: unknown) => void) | null = null

  constructor (runtime: Runtime, request: FastifyRequest | null) {
    this.runtime = runtime
    this.request = request
  }

  /** Whether there is a task that the runner may start. */
  get ready (): boolean {
    return this.#head !== null && this.current === null && this.held === null
  }

  get requestId (): string | null {
    return this.request?.id ?? null
  }

  get log (): FastifyBaseLogger {
    return this.request?.log ?? this.runtime.log
  }

  /** What came through the backend with its task. */
  get carrier (): Carrier | null {
    return null
  }

  append (task: Task): void {
    if (this.#tail === null) this.#head = task
    else this.#tail.next = task
    this.#tail = task
  }

  prepend (task: Task): void {
    task.next = this.#head
    this.#head = task
    this.#tail ??= task
  }

  /** A task of the line has come so far. */
  progress (_value: unknown): void {}

  /** Whether the next attempt of a task that has failed is for somebody else to begin. Then it is over here. */
  get retriesElsewhere (): boolean {
    return false
  }

  /** Whether what a task threw only says that the application closes, and somebody else is to begin it anew. */
  givesBack (_error: unknown): boolean {
    return false
  }

  /** Where a task of this line adds further ones. */
  get door (): Add {
    return this.runtime.door
  }

  /** Takes the next task that is still to run. */
  shift (): Task | null {
    let task = this.#head
    while (task !== null) {
      this.#head = task.next
      if (this.#head === null) this.#tail = null
      task.next = null
      if (task.status === PENDING) return task
      task = this.#head
    }
    return null
  }

  /** Lets a task run: in its turn, or once its delay is over. */
  join (task: Task): void {
    const { ledger, options, runner } = this.runtime
    if (task.spec !== null && task.spec.dedupe !== null && !ledger.claim(task.spec.dedupe, task)) {
      this.drop(task, `its dedupe id '${task.spec.dedupe}' is taken`)
      return
    }
    ledger.move(task, PENDING)
    if (task.spec !== null && task.spec.delay !== 0 && options.mode === 'run') {
      this.wait(task, task.spec.delay, () => {
        this.append(task)
        runner.enqueue(this)
      })
    } else {
      this.append(task)
    }
  }

  /** Keeps a pending task outside the line for a while. */
  wait (task: Task, ms: number, then: () => void): void {
    this.#waiting ??= new Set()
    this.#waiting.add(task)
    this.runtime.ledger.waiting++
    if (task.attempts === 0) this.runtime.ledger.delayed++
    task.extra.due = Date.now() + ms
    task.extra.timer = setTimeout(() => {
      this.#stopWaiting(task)
      then()
    }, ms)
  }

  #stopWaiting (task: Task): void {
    if (this.#waiting === null || !this.#waiting.delete(task)) return
    clearTimeout(task.extra.timer as NodeJS.Timeout)
    task.extra.timer = null
    this.runtime.ledger.waiting--
    if (task.attempts === 0) this.runtime.ledger.delayed--
  }

  /** See `TaskHandle.cancel`. */
  cancel (task: Task): boolean {
    if (task.status === RUNNING) return this.runtime.executor.cancel(task, this)
    this.runtime.report.cancelled(task, this)
    this.settle(task, CANCELLED)
    return true
  }

  /** Gives a task that is not running its final state, wherever it waits. */
  settle (task: Task, state: number, reason?: string): void {
    this.#stopWaiting(task)
    this.runtime.ledger.settle(task, state, reason)
    if (this.held === task) {
      this.held = null
      this.runtime.runner.enqueue(this)
    }
  }

  /** Settles a task that will not run, and says so. */
  drop (task: Task, reason: string): void {
    this.runtime.report.dropped(task, this, reason)
    this.settle(task, DROPPED, reason)
  }

  /** Every task of the line that has no final state: running, in line, waiting. */
  * tasks (): Generator<Task> {
    if (this.current?.status === RUNNING) yield this.current
    for (let task = this.#head; task !== null; task = task.next) {
      if (task.status === PENDING) yield task
    }
    if (this.#waiting !== null) yield * this.#waiting
  }

  /** Called by the ledger when the last unsettled task has been settled, and again when the last abandoned function ends. */
  settled (): void {
    this.runtime.ledger.close(this)
  }
}
