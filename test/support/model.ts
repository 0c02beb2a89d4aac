import type { Outcome, Stats, TaskHandle, TaskState } from '../../index'
import type { Program, TaskProgram } from './program'
import { signal } from './server'

/*
 * The model that the property test holds the plugin against: what it has been asked for and what has been seen of it,
 * and from that, what each task may do next and in which state it must end.
 */

/** Node's timers count whole milliseconds: they may fire so much early. */
const TIMER = 1.5

const FINAL: readonly TaskState[] = ['completed', 'failed', 'dropped', 'cancelled', 'replaced']
const STATES: readonly TaskState[] = ['collecting', 'pending', 'running', ...FINAL, 'captured']

export interface AttemptRecord {
  /** Not after the moment from which a timer that was set at its begin counts. */
  begun: number
  ended: number
  /** As for its begin. */
  endedEarliest: number
  result: 'ok' | 'error' | 'unrecoverable' | null
}

/** One request, as far as its tasks are concerned. */
export class RequestRecord {
  readonly index: number
  readonly leaves: boolean
  handlerBegun = false
  handlerEnded = false
  /** The response has been sent, or its connection has closed. */
  over = false
  released = false
  error: Error | null = null
  readonly keys = new Map<string, TaskRecord>()

  constructor (index: number, leaves: boolean) {
    this.index = index
    this.leaves = leaves
  }
}

/** One accepted task. */
export class TaskRecord {
  readonly number: number
  readonly program: TaskProgram
  /** `null`: added to the application. */
  readonly request: RequestRecord | null
  readonly added: number
  readonly beforeError: boolean
  /** It could start without waiting for the outcome. */
  released: boolean
  handle: TaskHandle | null = null
  readonly attempts: AttemptRecord[] = []
  /** In line when the last attempt failed: they go before the next one. */
  goBefore: TaskRecord[] = []
  cancelled = false
  replaced = false
  judged: boolean | 'threw' | null = null
  /** A task of its request failed, under `onFailure: 'stop'`. */
  stopped = false
  /** Reported at close, in this state. */
  unfinished: TaskState | null = null
  /** It was given up, or cancelled, while it waited for its next attempt. */
  wasRetrying = false
  reported = 0
  settled: TaskState | null = null

  constructor (model: Model, program: TaskProgram, request: RequestRecord | null) {
    this.number = model.tasks.length
    this.added = model.earliest
    this.program = program
    this.request = request
    this.beforeError = request !== null && request.error === null
    this.released = request !== null && request.released && this.isReleasable
  }

  get isReleasable (): boolean {
    return this.program.runOn === 'success' || this.program.runOn === 'always'
  }

  get listens (): boolean {
    return this.program.signal || this.program.kind === 'defined'
  }

  get state (): TaskState {
    // Reported before `add` has returned: judged at once, as a late one is.
    return this.handle === null ? 'collecting' : this.handle.state
  }

  get isFinal (): boolean {
    return FINAL.includes(this.state)
  }

  get last (): AttemptRecord | undefined {
    return this.attempts.at(-1)
  }

  get isRetrying (): boolean {
    return this.state === 'pending' && this.attempts.length !== 0
  }

  /** Whether an attempt may have been failed by its timeout, so that what its function did counts no more. */
  mayHaveTimedOut (attempt: AttemptRecord): boolean {
    const { timeout } = this.program
    return timeout !== 0 && (attempt.result === null ? performance.now() : attempt.ended) - attempt.begun >= timeout - TIMER
  }

  get mayBeAbandoned (): boolean {
    return this.cancelled || this.unfinished !== null || this.mayHaveTimedOut(this.last as AttemptRecord)
  }

  toString (): string {
    const { program, attempts, cancelled, replaced, judged, stopped, unfinished, settled } = this
    return `task ${this.number} of ${this.request === null ? 'the application' : `request ${this.request.index}`} ` +
      `(${this.state}): ${JSON.stringify({ attempts, cancelled, replaced, judged, stopped, unfinished, settled, program })}`
  }
}

export class Model {
  readonly program: Program
  readonly tasks: TaskRecord[] = []
  /** Functions that have begun and not ended. */
  executing = 0
  close: 'open' | 'closing' | 'closed' = 'open'
  #closeBegun = 0
  readonly violations: string[] = []
  /** Resolves at the first of them. */
  readonly violated = signal()
  #previousTurn = performance.now()
  #lastTurn = performance.now()
  readonly #stats: () => Stats

  constructor (program: Program, stats: () => Stats) {
    this.program = program
    this.#stats = stats
  }

  /**
   * Timers count from when the loop last looked at the clock, which it does once a turn: so long a turn took before they
   * were set, so much earlier they fire.
   */
  get earliest (): number {
    return this.#previousTurn
  }

  closing (): void {
    this.close = 'closing'
    this.#closeBegun = this.earliest
  }

  expect (condition: boolean, what: string, task?: TaskRecord): void {
    if (condition) return
    this.violations.push(task === undefined ? what : `${what}: ${task}`)
    this.violated.resolve()
  }

  byHandle (handle: TaskHandle): TaskRecord | undefined {
    return this.tasks.find(task => task.handle === handle)
  }

  line (task: TaskRecord): TaskRecord[] {
    return task.request === null ? [task] : this.tasks.filter(({ request }) => request === task.request)
  }

  /** To be asked before `add`: one that replaces another takes its room. */
  isFullFor ({ request, program: { key } }: TaskRecord): boolean {
    const { collecting, pending, running } = this.#stats()
    const earlier = key === null ? undefined : request?.keys.get(key)
    const replaces = earlier !== undefined && (earlier.state === 'collecting' || earlier.state === 'pending') && earlier.attempts.length === 0
    return collecting + pending + running >= this.program.maxPending + (replaces ? 1 : 0)
  }

  accepted (task: TaskRecord, wasFull: boolean): void {
    this.expect(this.close !== 'closed', 'accepted after the close', task)
    this.expect(!wasFull, 'accepted beyond maxPending', task)
    const { request, program: { key } } = task
    if (request !== null && key !== null) {
      const earlier = request.keys.get(key)
      if (earlier !== undefined && earlier.state === 'replaced') {
        this.expect(earlier.attempts.length === 0, 'replaced after it had started', earlier)
        earlier.replaced = true
      } else if (earlier !== undefined) {
        this.expect(earlier.isFinal || earlier.attempts.length !== 0, 'not replaced', earlier)
      }
      request.keys.set(key, task)
    }
    this.counts()
  }

  refused (error: { code?: string }, wasFull: boolean): void {
    if (error.code === 'FST_BGT_CLOSED') this.expect(this.close !== 'open', 'refused as closed while open')
    else if (error.code === 'FST_BGT_OVERLOADED') this.expect(wasFull, 'refused as overloaded without reason')
    else this.expect(false, `refused: ${error}`)
    this.counts()
  }

  releasing (request: RequestRecord): void {
    for (const task of this.tasks) {
      if (task.request === request && task.isReleasable && task.state === 'collecting') {
        task.released ||= request.error === null || !task.beforeError
      }
    }
    request.released = true
  }

  judged (task: TaskRecord, outcome: Outcome): void {
    const request = task.request as RequestRecord
    this.expect(task.judged === null, 'judged twice', task)
    this.expect(outcome.error === request.error, `judged by the error ${outcome.error}`, task)
    if (request.leaves || this.close !== 'open') return
    this.expect(!outcome.aborted, 'judged as aborted', task)
  }

  /** `answer` is what `cancel()` resolved with; the state is the one before. */
  cancelled (task: TaskRecord, before: TaskState, answer: boolean): void {
    const expected = before === 'collecting' || before === 'pending' || (before === 'running' && task.listens)
    this.expect(answer === expected, `cancel() resolved with ${answer} in the state ${before}`, task)
  }

  cancelling (task: TaskRecord): void {
    if (task.state === 'collecting' || task.state === 'pending' || (task.state === 'running' && task.listens)) {
      task.wasRetrying = task.isRetrying
      task.cancelled = true
    }
  }

  /** Returns the attempt, for its end: an abandoned one may end after the next has begun. */
  begins (task: TaskRecord): AttemptRecord {
    const { program, request, attempts } = task
    const now = performance.now()
    const line = this.line(task)
    const others = line.filter(other => other !== task)

    this.expect(task.state === 'running', 'runs, but is not running', task)
    this.expect(attempts.length < program.attempts, 'one attempt too many', task)
    this.expect(this.close !== 'closed', 'runs after the close', task)
    const last = task.last
    if (last !== undefined) {
      this.expect(last.result === 'error' || task.mayHaveTimedOut(last), 'tried again without having failed', task)
      if (last.result === 'error' && !task.mayHaveTimedOut(last)) {
        this.expect(now - last.endedEarliest >= backoff(program, attempts.length) - TIMER, `tried again ${now - last.ended} ms later`, task)
        for (const other of task.goBefore) {
          this.expect(other.isFinal || other.attempts.length !== 0, `tried again before ${other}`, task)
        }
      }
    } else {
      this.expect(now - task.added >= program.delay - TIMER, `begun ${now - task.added} ms after its add`, task)
      if (program.delay === 0) for (const other of others) this.#expectOrder(other, task)
    }
    if (request !== null && !task.released) {
      this.expect(request.over, 'begun before the response had left', task)
      this.expect(request.handlerEnded, 'begun before the handler had ended', task)
    }
    for (const other of others) {
      this.expect(other.state !== 'running', `begun while another one ran: ${other}`, task)
      this.expect(other.last === undefined || other.last.result !== null || other.mayBeAbandoned, `begun while another one executed: ${other}`, task)
      if (this.program.onFailure === 'stop') this.expect(!other.isRetrying, `begun while another one waited for its next attempt: ${other}`, task)
    }
    this.expect(this.tasks.filter(({ state }) => state === 'running').length <= this.program.concurrency, 'concurrency exceeded', task)

    const attempt: AttemptRecord = { begun: this.earliest, ended: 0, endedEarliest: 0, result: null }
    attempts.push(attempt)
    this.executing++
    this.counts()
    return attempt
  }

  /** Tasks that wait for no timer begin in the order they were added. */
  #expectOrder (other: TaskRecord, task: TaskRecord): void {
    if (other.number > task.number || other.program.delay !== 0 || other.attempts.length !== 0 || other.isFinal) return
    const { released, error } = task.request as RequestRecord
    // It waits for the outcome, and the one that was released need not.
    if (released && ((task.isReleasable && !other.isReleasable) || (error !== null && other.beforeError))) return
    this.expect(false, `begun before ${other}`, task)
  }

  ends (task: TaskRecord, attempt: AttemptRecord, result: NonNullable<AttemptRecord['result']>): void {
    attempt.ended = performance.now()
    attempt.endedEarliest = this.earliest
    attempt.result = result
    this.executing--
    // Under `stop` it keeps the line, and goes first.
    if (this.program.onFailure === 'continue') task.goBefore = this.line(task).filter(other => other !== task && other.state === 'pending' && other.attempts.length === 0 && other.program.delay === 0)
    this.counts()
  }

  /** `onError` has been called, for a failure or at close. */
  reported (task: TaskRecord, error: { code?: string }): void {
    task.reported++
    this.expect(!task.isFinal, 'reported after its final state', task)
    this.counts()
    const ended = task.state === 'running' && task.last!.result !== null
    if (error.code === 'FST_BGT_CLOSE_TIMEOUT' && !ended) {
      this.expect(this.close === 'closing', 'reported as unfinished while open', task)
      const waited = performance.now() - this.#closeBegun
      const waits = task.program.delay !== 0 || task.attempts.length !== 0
      this.expect(waits || waited >= this.program.close!.timeout - TIMER, `reported as unfinished after ${waited} ms`, task)
      task.unfinished = task.state
      task.wasRetrying = task.isRetrying
    } else if (task.judged !== 'threw' && this.program.onFailure === 'stop') {
      for (const other of this.line(task)) if (other !== task && !other.isFinal) other.stopped = true
    }
  }

  /** Invariants outside the plugin's code: the counts are those of the tasks, and nothing is missing. */
  counts (): void {
    const stats = this.#stats()
    const sum = STATES.reduce((total, state) => total + stats[state], 0)
    this.expect(sum === stats.accepted, `the states do not add up to accepted: ${JSON.stringify(stats)}`)
  }

  /** Invariants between two turns of the event loop, too: each function at work belongs to a running or an abandoned task. */
  turn (): void {
    this.#previousTurn = this.#lastTurn
    this.#lastTurn = performance.now()
    this.counts()
    const stats = this.#stats()
    this.expect(stats.accepted === this.tasks.length, `${this.tasks.length} tasks are not ${stats.accepted} accepted`)
    for (const state of STATES) {
      const found = this.tasks.filter(task => task.state === state).length
      this.expect(found === stats[state], `${found} tasks in the state ${state} are not ${stats[state]}`)
    }
    const { running, abandoned } = stats
    this.expect(running + abandoned === this.executing, `${this.executing} functions are not ${running} running and ${abandoned} abandoned`)
    this.expect(running <= this.program.concurrency, `${running} run at once`)
  }

  /** When everything has ended. */
  end (): void {
    this.turn()
    for (const task of this.tasks) {
      this.expect(task.settled !== null && task.settled === task.state, 'settled() and the state differ', task)
      this.expect(this.#finalStates(task).includes(task.state), `must end as ${this.#finalStates(task).join(' or ')}`, task)
      const reports = task.state === 'failed' || task.unfinished !== null ? 1 : 0
      this.expect(task.reported === reports, `reported ${task.reported} times`, task)
      if (task.judged === false) this.expect(task.attempts.length === 0, 'run though its predicate said no', task)
    }
    const { retried, abandoned } = this.#stats()
    const expected = this.tasks.reduce((sum, task) => sum + Math.max(0, task.attempts.length - 1) + Number(task.wasRetrying), 0)
    this.expect(retried === expected, `${expected} next attempts are not ${retried} retried`)
    this.expect(this.executing === 0 && abandoned === 0, `${abandoned} abandoned in the end`)
  }

  #finalStates (task: TaskRecord): TaskState[] {
    if (task.cancelled) return ['cancelled']
    if (task.replaced) return ['replaced']
    if (task.unfinished !== null) return [task.unfinished === 'running' ? 'failed' : 'dropped']
    if (task.judged === 'threw') return ['failed']
    if (task.stopped || !this.#mayRun(task)) return ['dropped']
    const { last, program } = task
    if (last === undefined) return []
    const states: TaskState[] = []
    if (last.result === 'ok') states.push('completed')
    const failed = last.result === 'error' || task.mayHaveTimedOut(last)
    if (last.result === 'unrecoverable' || (failed && task.attempts.length === program.attempts)) states.push('failed')
    return states
  }

  #mayRun ({ program: { runOn }, request, released, beforeError, judged }: TaskRecord): boolean {
    if (request === null) return true
    switch (runOn) {
      case 'success': return released || request.error === null || !beforeError
      case 'failure': return request.error !== null
      case 'always': return true
      default: return judged === true
    }
  }
}

/** How long a task waits after so many attempts. */
function backoff ({ backoff, exponential }: TaskProgram, attempts: number): number {
  return exponential ? backoff * 2 ** (attempts - 1) : backoff
}
