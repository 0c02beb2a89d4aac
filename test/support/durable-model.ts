import type { DeliveryEnd, StoredTask, TaskInfo } from '../../types/backend'
import type { Stats, TaskHandle, TaskState } from '../../index'
import { STORE_TIMEOUT, type ProcessProgram, type RequestProgram, type ScheduleProgram, type StoreFault, type TaskProgram } from './durable-program'

/*
 * The laws of tasks that a store keeps, whatever happens to processes, clients and answers of the store:
 *
 *   Stored     After a 2xx, and after flush(), the store has each task that the outcome lets run. A handle says `stored` only then.
 *   Refused    A 503 has a fault or a close as its cause. It comes in time. What was not written never runs, and what arrives late is cancelled.
 *   Outcome    The store gets no task that the outcome of its request excludes: a failed request stores no task for success.
 *   Once       Each stored task runs, and after its end no more, but where a worker was lost with it.
 *   Attempts   They are counted without a gap, and never more than `attempts`. What a crash or a close interrupts does not count.
 *   Time       No attempt begins before its delay or backoff is over, and none lasts longer than its timeout.
 *   Dedupe     Of the tasks with a dedupe id one at most is not settled. A task is dropped for nothing else.
 *   Key        Of the tasks of a request with a key, the last one runs.
 *   Cancel     After a `true`, the task does not begin.
 *   Order      A worker begins tasks in the order in which they were stored.
 *   Isolation  A task under which a worker died runs alone from then on.
 *   Schedule   Between two due times one run at most is stored, and with `overlap` there is one if a process works.
 *   Chain      What a completed attempt has added by `ctx.add` is stored. Else the attempt fails: for a fault of the store, its own stop, or a close.
 *   End        A task settles once. The states add up. Where a process has closed or died, nothing begins.
 */

const STATES: readonly TaskState[] = ['collecting', 'pending', 'running', 'completed', 'failed', 'dropped', 'cancelled', 'replaced', 'captured', 'stored']
const OPEN: readonly TaskState[] = ['collecting', 'pending', 'running']

/** The store may note an end so many ms later. */
const NOTED_MS = 20

export class ProcessRecord {
  readonly number: number
  readonly program: ProcessProgram
  state: 'open' | 'closing' | 'closed' | 'dead' = 'open'
  /** When it was ready. */
  begun = 0
  closeBegun = 0
  killed = 0
  /** Calls of `add` that were accepted, deliveries, and deliveries whose end is `completed`. */
  accepted = 0
  deliveries = 0
  completed = 0
  /** Whether one of its calls of `store` has met a fault. */
  faulted = false

  constructor (number: number, program: ProcessProgram) {
    this.number = number
    this.program = program
  }

  get isOver (): boolean {
    return this.state === 'closed' || this.state === 'dead'
  }

  /** Whether it ran tasks of the store from one time to another one. */
  worked (from: number, to: number): boolean {
    const end = this.closeBegun || this.killed || Infinity
    return this.program.concurrency !== 0 && this.begun < from && end > to
  }
}

export class RequestRecord {
  readonly index: number
  readonly process: ProcessRecord
  readonly program: RequestProgram
  error: (Error & { code?: string }) | null = null
  handlerEnded: number | null = null
  /** Nothing more happens to it. */
  over = false
  /** Its client has left before it had the response. */
  left = false
  /** release() was called. */
  released = false
  readonly keys = new Map<string, TaskRecord>()

  constructor (index: number, process: ProcessRecord, program: RequestProgram) {
    this.index = index
    this.process = process
    this.program = program
  }
}

/** One execution of a task's function. */
export interface AttemptRecord {
  readonly process: ProcessRecord
  /** As its function was told. */
  readonly number: number
  readonly begun: number
  /** Why its signal aborted, and when. */
  stopped: { at: number, code: string | undefined } | null
  ended: number | null
  result: 'ok' | 'error' | 'unrecoverable' | null
  /** When the store was told of its end. */
  told: number | null
  /** Its worker died, or the store gave the task to another one. */
  lost: boolean
  /** What it has added by `ctx.add`. */
  added: TaskRecord[]
}

/** A task in the hands of a process. */
export interface DeliveryRecord {
  readonly task: TaskRecord
  readonly process: ProcessRecord
  /** `null` until its function has begun. */
  attempt: AttemptRecord | null
}

export class TaskRecord {
  readonly number: number
  readonly program: TaskProgram
  readonly process: ProcessRecord
  readonly request: RequestRecord | null
  readonly added = Date.now()
  readonly beforeError: boolean
  handle: TaskHandle | null = null
  /** `add` has thrown. */
  refused = false
  /** Another task with its key was added while it was on its way to the store. */
  replacedInFlight = false
  /** flush() was called after it was added, or release(). */
  released: boolean
  /** A write of it has met a fault, so that the plugin does not know whether it is stored. */
  faulted = false
  /** Its write was refused, and answered late: then the plugin takes it out again. */
  latecomer = false
  /** How often it was written. */
  writes = 0
  /** The plugin has asked the store to cancel it. */
  cancelCalled = false
  /** When the store had it, and as which in a row; `null` before. */
  arrived: number | null = null
  place = 0
  /** A cancellation by the user, or by the plugin where a write came late. */
  cancelAsked = false
  cancelled: number | null = null
  readonly deliveries: DeliveryRecord[] = []
  /** A worker died while it ran. */
  crashed = false
  executions = 0
  readonly attempts: AttemptRecord[] = []
  finalState: TaskState | null = null
  settled: TaskState | null = null

  constructor (number: number, program: TaskProgram, process: ProcessRecord, request: RequestRecord | null) {
    this.number = number
    this.program = program
    this.process = process
    this.request = request
    this.beforeError = request !== null && request.error === null
    this.released = this.beforeError && request!.released && this.isReleasable
  }

  get isReleasable (): boolean {
    return this.program.runOn === 'success' || this.program.runOn === 'always'
  }

  get state (): TaskState {
    return this.handle === null ? 'collecting' : this.handle.state
  }

  get last (): AttemptRecord | undefined {
    return this.attempts.at(-1)
  }

  /** What became of an attempt. */
  outcomeOf ({ lost, told, stopped, result, added }: AttemptRecord): 'running' | 'ok' | 'error' | 'unrecoverable' | 'lost' | 'returned' | 'cancelled' {
    if (lost) return 'lost'
    // What it has added may be on its way to the store.
    if (result === 'ok' && told === null && added.length !== 0) return 'running'
    if (stopped?.code === 'FST_BGT_TIMEOUT') return 'error'
    if (stopped?.code === 'FST_BGT_CANCELLED') return 'cancelled'
    // The plugin tells at the same time that it waits no more.
    if (stopped !== null && !this.program.plain && result !== 'ok' && result !== 'unrecoverable') return told === null ? 'running' : 'returned'
    return result ?? 'running'
  }

  /** Whether no attempt follows. */
  get isOver (): boolean {
    if (this.cancelled !== null) return true
    const { last } = this
    if (last === undefined) return false
    const outcome = this.outcomeOf(last)
    return outcome === 'ok' || outcome === 'unrecoverable' || outcome === 'cancelled' || (outcome === 'error' && last.number >= this.program.attempts)
  }

  /** Whether its request lets it be stored, as things are. */
  get isAdmitted (): boolean {
    if (this.request === null) return true
    switch (this.program.runOn) {
      case 'success': return this.request.error === null || !this.beforeError || this.released
      case 'failure': return this.request.error !== null
      case 'predicate: false': return false
      default: return true
    }
  }

  toString (): string {
    const { number, process, request, program, attempts, state, released, faulted, arrived, cancelAsked, cancelled } = this
    const shown = attempts.map(({ process, added, ...attempt }) => ({ process: process.number, ...attempt, added: added.map(({ number }) => number) }))
    return `task ${number} of ${request === null ? 'the application' : `request ${request.index}`} in process ${process.number} (${state}): ` +
      JSON.stringify({ released, faulted, arrived, cancelAsked, cancelled, attempts: shown, program })
  }
}

export class DurableModel {
  readonly processes: ProcessRecord[] = []
  readonly tasks: TaskRecord[] = []
  readonly requests: RequestRecord[] = []
  readonly violations: string[] = []
  readonly #byId = new Map<string, TaskRecord>()
  readonly #isolates: boolean
  #arrivals = 0
  /** A worker that ends gives tasks back, which then come later than others. */
  #isOrdered = true
  readonly #stats: (process: ProcessRecord) => Stats

  /** @param isolates whether the store has tasks run alone after a crash */
  constructor (isolates: boolean, stats: (process: ProcessRecord) => Stats) {
    this.#isolates = isolates
    this.#stats = stats
  }

  expect (holds: boolean, what: string, ...about: unknown[]): void {
    if (!holds) this.violations.push([`at ${Date.now()}: ${what}`, ...about].join('\n  '))
  }

  byId (id: string): TaskRecord {
    return this.#byId.get(id) as TaskRecord
  }

  // Adding

  add (program: TaskProgram, process: ProcessRecord, request: RequestRecord | null): { task: TaskRecord, isReplaced: boolean } {
    const task = new TaskRecord(this.tasks.length, program, process, request)
    this.tasks.push(task)
    const earlier = this.#earlier(task)
    if (earlier?.state === 'pending') earlier.replacedInFlight = true
    return { task, isReplaced: earlier !== undefined && (!earlier.program.plain || earlier.attempts.length === 0) && (earlier.state === 'collecting' || earlier.state === 'pending') }
  }

  #earlier ({ request, program: { key } }: TaskRecord): TaskRecord | undefined {
    return key === null ? undefined : request?.keys.get(key)
  }

  accepted (task: TaskRecord, handle: TaskHandle, replaces: boolean): void {
    task.handle = handle
    task.process.accepted++
    this.#byId.set(handle.id, task)
    this.expect(!task.process.isOver, 'Key: accepted after the close', task)
    const earlier = this.#earlier(task)
    if (earlier !== undefined) this.expect((earlier.state === 'replaced') === replaces, `Key: ${replaces ? 'not ' : ''}replaced by task ${task.number}`, earlier)
    if (task.program.key !== null) task.request?.keys.set(task.program.key, task)
  }

  refused (task: TaskRecord, error: Error & { code?: string }): void {
    task.refused = true
    this.expect(error.code === 'FST_BGT_CLOSED' && task.process.state !== 'open', `add has thrown ${error.stack}`, task)
  }

  // Storing

  /** Tasks of a call of `store`. */
  written (process: ProcessRecord, batches: StoredTask[][], fault: StoreFault): void {
    if (fault !== 'none') process.faulted = true
    for (const batch of batches) {
      let previous = -1
      for (const { id, attempts, delay, timeout, dedupe } of batch) {
        const task = this.byId(id)
        const { program } = task
        this.expect(task.process === process && !process.isOver, 'written by a process that is over', task)
        // Replaced while its write waited for another one. The store has it then for a moment.
        this.expect(task.finalState === null || (task.replacedInFlight && task.writes === 0), 'Outcome: written after its end', task)
        this.expect(task.isAdmitted, 'Outcome: written in spite of its request', task)
        this.expect(task.number > previous, 'Order: written in another order than added', task)
        this.expect(attempts === program.attempts && delay === program.delay && timeout === program.timeout && dedupe === program.dedupe, 'written with other options', task)
        previous = task.number
        task.writes++
      }
    }
  }

  /** The store has made a batch of it, or found the one with its dedupe id. */
  arrived (batch: StoredTask[], ids: string[]): void {
    batch.forEach(({ id }, index) => {
      const task = this.byId(id)
      const other = this.#byId.get(ids[index]!)
      const { dedupe } = task.program
      if (other !== task) {
        const until = other?.last?.told ?? other?.cancelled ?? null
        const isHolder = other !== undefined && other.arrived !== null && dedupe !== null && other.program.dedupe === dedupe
        this.expect(isHolder && (!other.isOver || (until !== null && until + NOTED_MS >= Date.now())), 'Dedupe: dropped without a reason', task, other)
      } else if (task.arrived === null) {
        if (dedupe !== null) {
          for (const rival of this.tasks) {
            if (rival !== task && rival.program.dedupe === dedupe && rival.arrived !== null) this.expect(rival.isOver, 'Dedupe: stored beside another one', task, rival)
          }
        }
        task.arrived = Date.now()
        // Cancelled while its question was lost: the store knows nothing of that.
        if (task.faulted) task.cancelled = null
        task.place = ++this.#arrivals
      }
    })
  }

  cancelledInStore (id: string): void {
    this.byId(id).cancelled ??= Date.now()
  }

  /** The request calls flush() or release(), which let tasks go that do not depend on the outcome. */
  releasing (request: RequestRecord, all: boolean): TaskRecord[] {
    const tasks = this.#tasksOf(request).filter(task => task.isReleasable && (!task.beforeError || request.error === null) && (all || !task.program.plain))
    for (const task of tasks) if (task.state === 'collecting') task.released = true
    if (all) request.released = true
    return tasks
  }

  flushed (tasks: TaskRecord[]): void {
    for (const task of tasks) this.#expectStored(task, 'after flush()')
  }

  replied (request: RequestRecord, status: number): void {
    const { index, process, program, handlerEnded } = request
    const tasks = this.#tasksOf(request).filter(({ program }) => !program.plain)
    const late = handlerEnded === null ? 0 : Date.now() - handlerEnded
    const pauses = program.error.reduce((sum, step) => sum + (step.do === 'wait' ? step.ms : step.do === 'flush' ? 2 * STORE_TIMEOUT : 0), 0)
    this.expect(late <= 3 * STORE_TIMEOUT + pauses, `Refused: request ${index} was answered after ${late} ms`)
    if (status === 503) {
      this.expect(process.faulted || process.closeBegun !== 0, `Refused: request ${index} got a 503 without a reason`, ...tasks)
      return
    }
    this.expect(status === (request.error === null ? program.end === 'return 404' ? 404 : 200 : 500), `request ${index} got a ${status}`, request.error?.stack)
    for (const task of tasks) {
      // What is added by the error handler, after a first refusal, may fail on its own.
      if (task.isAdmitted && !process.faulted && process.closeBegun === 0) this.#expectStored(task, `after a ${status}`)
      else if (status < 300 && task.isAdmitted) this.#expectStored(task, 'after a 2xx')
    }
  }

  #expectStored (task: TaskRecord, when: string): void {
    const { state, program } = task
    const left = state === 'cancelled' || state === 'replaced' || (state === 'dropped' && program.dedupe !== null)
    this.expect(left || (state === 'stored' && task.arrived !== null), `Stored: not stored ${when}`, task)
  }

  #tasksOf (request: RequestRecord): TaskRecord[] {
    return this.tasks.filter(task => task.request === request && !task.refused)
  }

  // Cancelling

  cancelling (task: TaskRecord): () => void {
    const { state } = task
    task.cancelAsked = true
    const due = task.arrived === null ? 0 : task.arrived + task.program.delay
    const waits = state === 'collecting' || (state === 'stored' && task.cancelled === null && task.deliveries.length === 0 && due > Date.now() + 4 * STORE_TIMEOUT)
    return () => this.expect(!waits, 'Cancel: not cancelled, though it waits', task)
  }

  // Running

  handedOut (process: ProcessRecord, { task: { id, payload }, attempt }: { task: StoredTask, attempt: number }): DeliveryRecord {
    const task = this.byId(id)
    process.deliveries++
    this.expect(!process.isOver, 'End: handed to a process that is over', task)
    this.expect(payload === JSON.stringify({ number: task.number }), `handed out with the payload ${payload}`, task)
    this.expect(attempt <= task.program.attempts, `Attempts: attempt ${attempt} is handed out`, task)
    if (task.deliveries.length === 0 && task.program.delay === 0 && this.#isOrdered) {
      for (const other of this.tasks) {
        const isBefore = other.arrived !== null && other.place < task.place && other.program.delay === 0
        this.expect(!isBefore || other.deliveries.length !== 0 || other.cancelAsked || other.latecomer || other.cancelled !== null, `Order: handed out before task ${other.number}`, task, other)
      }
    }
    const delivery = { task, process, attempt: null }
    task.deliveries.push(delivery)
    return delivery
  }

  begins (process: ProcessRecord, task: TaskRecord, number: number): AttemptRecord {
    const { program, last, attempts } = task
    const now = Date.now()
    this.expect(!process.isOver, 'End: begins in a process that is over', task)
    this.expect(!program.plain || process === task.process, 'begins elsewhere', task)
    this.expect(program.plain || task.arrived !== null, 'begins without being stored', task)
    this.expect(number <= program.attempts, `Attempts: attempt ${number}`, task)
    const wasLost = attempts.some(({ lost }) => lost)
    if (task.cancelled !== null) this.expect(wasLost || task.faulted, 'Cancel: begins', task)
    if (last === undefined) {
      this.expect(number === 1, `Attempts: the first one is ${number}`, task)
      this.expect(now >= (task.arrived ?? task.added) + program.delay, 'Time: begins before its delay is over', task)
    } else {
      this.#expectNext(task, last, number)
    }
    if (program.plain) this.#expectLine(task)
    this.#expectAlone(process, task)
    const attempt: AttemptRecord = { process, number, begun: now, stopped: null, ended: null, result: null, told: null, lost: false, added: [] }
    attempts.push(attempt)
    const delivery = task.deliveries.find(delivery => delivery.process === process && delivery.attempt === null)
    if (delivery !== undefined) delivery.attempt = attempt
    task.executions++
    return attempt
  }

  #expectNext (task: TaskRecord, last: AttemptRecord, number: number): void {
    const outcome = task.outcomeOf(last)
    if (outcome === 'lost') {
      // Nobody knows whether the store has heard of the end.
      return this.expect(number === last.number || (number === last.number + 1 && last.result === 'error'), `Attempts: ${number} after a lost ${last.number}`, task)
    }
    if (outcome === 'returned') return this.expect(number === last.number, `Attempts: ${number} after a returned ${last.number}`, task)
    this.expect(outcome === 'error', `Once: begins after an attempt that is '${outcome}'`, task)
    this.expect(number === last.number + 1, `Attempts: ${number} after a failed ${last.number}`, task)
    const { backoff, exponential } = task.program
    const wait = exponential ? backoff * 2 ** (last.number - 1) : backoff
    this.expect(Date.now() >= (last.stopped?.at ?? last.ended!) + wait, `Time: begins before its backoff of ${wait} ms is over`, task)
  }

  /** Functions of a request run one at a time, as added, if its outcome lets them. */
  #expectLine (task: TaskRecord): void {
    const { request, program } = task
    if (request === null) return
    // An error after the client has left comes after the outcome.
    this.expect(task.isAdmitted || request.left, 'Outcome: begins in spite of its request', task)
    for (const other of this.#tasksOf(request)) {
      if (other === task || !other.program.plain) continue
      this.expect(other.state !== 'running', `Order: begins while task ${other.number} runs`, task)
      const isBefore = other.number < task.number && program.delay + other.program.delay === 0 && other.released === task.released
      if (isBefore && task.attempts.length === 0 && other.isAdmitted && other.program.runOn === program.runOn) {
        this.expect(other.attempts.length !== 0 || !OPEN.includes(other.state), `Order: begins before task ${other.number}`, task)
      }
    }
  }

  #expectAlone (process: ProcessRecord, task: TaskRecord): void {
    if (!this.#isolates || task.program.plain) return
    for (const other of this.tasks) {
      const { last, program } = other
      if (other === task || program.plain || last === undefined || last.process !== process || last.told !== null) continue
      this.expect(!task.crashed && !other.crashed, `Isolation: begins beside task ${other.number}`, task, other)
    }
  }

  /** In the end: when the runs of the schedule were stored. */
  scheduled ({ every, overlap }: ScheduleProgram, stored: number[]): void {
    const runs = new Map<number, number>()
    for (const at of stored) {
      const due = at - at % every
      runs.set(due, (runs.get(due) ?? 0) + 1)
    }
    for (const [due, count] of runs) this.expect(count === 1, `Schedule: ${count} runs for ${due}`)
    if (!overlap) return
    const begun = Math.min(...this.processes.map(({ begun }) => begun))
    for (let due = begun - begun % every + every; due + every <= Date.now(); due += every) {
      if (this.processes.some(process => process.worked(due, due + every))) this.expect(runs.has(due), `Schedule: no run for ${due}`)
    }
  }

  stops (task: TaskRecord, attempt: AttemptRecord, code: string | undefined): void {
    const now = Date.now()
    attempt.stopped = { at: now, code }
    const { timeout } = task.program
    if (code === 'FST_BGT_TIMEOUT') this.expect(timeout !== 0 && now - attempt.begun === timeout, 'Time: stopped by its timeout', task)
    else if (code === 'FST_BGT_CANCELLED') this.expect(task.cancelAsked || task.latecomer || task.state === 'replaced' || attempt.lost, 'Cancel: stopped, though nobody has asked', task)
    else this.expect(attempt.process.state === 'closing' && now - attempt.process.closeBegun >= attempt.process.program.closeTimeout, `stopped by ${code}`, task)
  }

  ends (task: TaskRecord, attempt: AttemptRecord, result: NonNullable<AttemptRecord['result']>): void {
    attempt.ended = Date.now()
    attempt.result = result
    const { timeout } = task.program
    this.expect(timeout === 0 || attempt.stopped !== null || attempt.ended - attempt.begun <= timeout, 'Time: lasts longer than its timeout', task)
    if (task.program.plain) attempt.told = Date.now()
  }

  /** The store hears of the end of a delivery. */
  told ({ task, process, attempt }: DeliveryRecord, end: DeliveryEnd['state']): void {
    if (end === 'completed') process.completed++
    if (attempt !== null) {
      attempt.told = Date.now()
      this.#expectChain(attempt, end)
    }
    if (end === 'cancelled' && attempt?.lost !== true) task.cancelled ??= Date.now()
  }

  #expectChain (attempt: AttemptRecord, end: DeliveryEnd['state']): void {
    const { added, process, result } = attempt
    const durable = added.filter(({ program }) => !program.plain)
    if (end === 'completed') {
      for (const task of durable) {
        const isStored = task.arrived !== null || (task.state === 'dropped' && task.program.dedupe !== null) || task.state === 'cancelled'
        this.expect(isStored, 'Chain: not stored, though what has added it is completed', task)
      }
    } else if (result === 'ok' && durable.length !== 0) {
      // It may have waited too long for another write, which had the fault.
      this.expect(process.faulted || process.closeBegun !== 0 || attempt.stopped !== null, `Chain: ${end} without a fault`, ...durable)
      attempt.result = 'error'
    }
  }

  /** The store has given the task to another worker. */
  lost (id: string): void {
    const { last } = this.byId(id)
    if (last?.told === null) last.lost = true
  }

  // The ends of processes

  killed (process: ProcessRecord): void {
    process.state = 'dead'
    process.killed = Date.now()
    this.#isOrdered = false
    for (const task of this.tasks) {
      for (const attempt of task.attempts) {
        if (attempt.process !== process || attempt.told !== null) continue
        attempt.lost = true
        task.crashed = true
      }
    }
  }

  closing (process: ProcessRecord): void {
    process.state = 'closing'
    process.closeBegun = Date.now()
    this.#isOrdered = false
  }

  closed (process: ProcessRecord): void {
    process.state = 'closed'
    const took = Date.now() - process.closeBegun
    this.expect(took <= 1.1 * process.program.closeTimeout + 4 * STORE_TIMEOUT, `End: the close of process ${process.number} took ${took} ms`)
    for (const task of this.tasks) if (task.process === process && !task.refused) this.expect(!OPEN.includes(task.state), 'End: not settled after the close', task)
    const { accepted, completed } = this.#stats(process)
    this.expect(accepted >= process.accepted && accepted <= process.accepted + process.deliveries, `End: ${accepted} accepted by process ${process.number}, after ${process.accepted} calls of add and ${process.deliveries} deliveries`)
    const plain = this.tasks.filter(({ program, process: owner, state }) => program.plain && owner === process && state === 'completed').length
    this.expect(completed === plain + process.completed, `End: ${completed} completed in process ${process.number}, not ${plain} + ${process.completed}`)
    this.look()
  }

  /** Whenever nothing is left to do without time. */
  look (): void {
    for (const process of this.processes) {
      if (process.state === 'dead') continue
      const stats = this.#stats(process)
      const sum = STATES.reduce((total, state) => total + stats[state], 0)
      this.expect(sum === stats.accepted, `End: the states of process ${process.number} do not add up: ${JSON.stringify(stats)}`)
    }
    for (const task of this.tasks) {
      if (task.handle === null || task.process.state === 'dead') continue
      const { state } = task
      if (task.finalState !== null) this.expect(task.finalState === state, `End: ${task.finalState} before, and now ${state}`, task)
      else if (!OPEN.includes(state)) task.finalState = state
      if (state === 'stored') this.expect(task.arrived !== null, 'Stored: the handle says so, and the store has nothing', task)
    }
  }

  /** Whether there is nothing to wait for. */
  get isOver (): boolean {
    return this.requests.every(({ over, process }) => over || process.isOver) &&
      this.tasks.every(task => task.refused || this.#isDone(task))
  }

  #isDone (task: TaskRecord): boolean {
    if (!task.process.isOver && OPEN.includes(task.state)) return false
    return task.program.plain || task.arrived === null || (task.isOver && task.attempts.every(({ lost, told }) => lost || told !== null))
  }

  /** In the end: what the store says of a task. */
  end (task: TaskRecord, info: TaskInfo | null): void {
    const { program, process, state } = task
    if (process.state !== 'dead' && task.settled !== null) {
      this.expect(task.settled === state || (state === 'stored' && task.settled === info?.state), `End: settled() says ${task.settled}, the store ${info?.state}`, task)
    }
    if (task.program.plain) {
      const mustRun = process.state !== 'dead' && process.closeBegun === 0
      if (mustRun && task.last !== undefined) this.expect(task.isOver, 'Once: not run to its end', task)
      return
    }
    if (task.arrived === null) {
      this.expect(task.attempts.length === 0, 'Once: run, but never stored', task)
      this.expect(state !== 'stored' || process.state === 'dead', 'Stored: never', task)
      return
    }
    if (task.latecomer && task.writes === 1 && (state === 'failed' || state === 'dropped') && process.closeBegun === 0 && process.state === 'open') {
      this.expect(task.cancelCalled, 'Refused: it came late, and was not cancelled', task)
    }
    const { last } = task
    const outcome = last === undefined ? 'none' : task.outcomeOf(last)
    this.expect(info !== null, 'Stored: the store has lost it', task)
    if (info === null) return
    if (info.state === 'cancelled') {
      this.expect(task.cancelAsked || task.latecomer || state === 'replaced' || state === 'cancelled', 'Cancel: cancelled, though nobody has asked', task)
      return
    }
    this.expect(task.cancelled === null || task.faulted || task.attempts.some(({ lost }) => lost), `Cancel: ${info.state}`, task)
    const expected = outcome === 'ok' ? 'completed' : outcome === 'error' || outcome === 'unrecoverable' ? 'failed' : `unknown: ${outcome}`
    this.expect(info.state === expected, `Once: ${info.state} in the store, not ${expected}`, task)
    this.expect(info.attempts === last?.number, `Attempts: ${info.attempts} in the store`, task)
    const shown = JSON.stringify(info.result)
    const result = outcome === 'ok' ? JSON.stringify({ number: task.number, attempt: last!.number }) : undefined
    this.expect(shown === result, `End: the store has the result ${shown}, not ${result}`, task)
    this.expect(outcome !== 'error' || last!.number === program.attempts, 'Attempts: failed too early', task)
  }
}
