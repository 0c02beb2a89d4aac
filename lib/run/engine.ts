import type { FastifyBaseLogger } from 'fastify'
import type { LogOf } from '../../types/backend'
import type { AppBackgroundTasks } from '../../types/collector'
import type { CapturedTask } from '../../types/task'
import { publishRetry } from '../observe/channels'
import { Report } from '../observe/report'
import { backoffDelay } from '../shared/backoff'
import { FST_BGT_CANCELLED } from '../shared/errors'
import { asPromise, isThenable } from '../shared/promises'
import { isUnrecoverable } from '../shared/unrecoverable-error'
import { capture } from '../task/capture'
import { CANCELLED, CAPTURED, COMPLETED, DROPPED, FAILED, PENDING, REPLACED, RUNNING, STORED } from '../task/states'
import type { Task } from '../task/task'
import { Attempt, type AttemptHost } from './attempt'
import type { AttemptCollector } from './attempt-collector'
import { call } from './call'
import { Ledger } from './ledger'
import type { Line, LineEngine } from './line'
import { Runner, type TaskExecutor } from './runner'
import { type ScopeMaker, Scopes } from './scopes'
import type { Settings } from './settings'
import type { ThreadRunner } from './thread-runner'
import { joinLater, stopWaiting } from './timers'

/*
 * Words
 *   line       tasks that run one after the other: those of a request, one of the application, one delivery
 *   collector  `request.backgroundTasks`, the line of a request; `app.backgroundTasks`
 *   exchange   a request and its reply on the wire; its end starts the collector's tasks
 *   outcome    how the request ended, for `runOn` (admission.ts)
 *   delivery   an attempt of a stored task that the backend has this process run (deliveries.ts)
 *   settle     to reach a final state              cancel  the user ends a task       abort  a signal
 *   abandon    to stop waiting for a function that still runs: a timeout, `cancel`, the close (attempt.ts, drain.ts)
 *   return     to give a task back to the backend, uncounted, because the application closes
 *
 * States, and what leads to them
 *   collecting  add; again where the backend has refused the task (hand-over.ts)
 *   pending     join; a failed attempt that another one follows; HandOver and storeInTransaction, while the task is being stored
 *   running     execute, called by the runner
 *   completed   completed                          failed      failed, after the last attempt; fail, without one; drain
 *   dropped     drop: runOn, onFailure, dedupe; drain          cancelled  cancel
 *   replaced    replace: a later task has its key  captured    execute, with mode 'capture'
 *   stored      HandOver; storeInTransaction; a delivery that returns, or that the backend tries again
 */

/** Runs the tasks of one registration: moves them from state to state, and tells of it. Made at registration. */
export class Engine implements LineEngine, TaskExecutor, AttemptHost {
  readonly settings: Settings
  readonly log: FastifyBaseLogger
  readonly logOf: LogOf
  readonly ledger: Ledger
  readonly report: Report
  readonly scopes: Scopes
  readonly runner: Runner
  readonly captured: CapturedTask[] = []
  /** `null` where no task runs on a thread. */
  threads: ThreadRunner | null = null
  /** `null` without `@fastify/awilix`. */
  scopeMaker: ScopeMaker | null = null
  closeReason: Error | null = null
  /** The application's own collector. */
  declare app: AppBackgroundTasks
  declare collect: (line: Line) => AttemptCollector

  constructor (settings: Settings, log: FastifyBaseLogger, logOf: LogOf) {
    this.settings = settings
    this.log = log
    this.logOf = logOf
    this.ledger = new Ledger(settings.maxPending)
    this.report = new Report(log, settings.onError)
    this.scopes = new Scopes(this.ledger, this.report)
    this.runner = new Runner(this, settings.concurrency)
  }

  /** Lets a task run: in its turn, or once its delay is over. */
  join (task: Task, line: Line): void {
    const { spec } = task
    if (task.isSettled) return
    if (spec !== null && spec.dedupe !== null && !this.ledger.claim(spec.dedupe, task)) {
      return this.drop(task, line, `its dedupe id '${spec.dedupe}' is taken`)
    }
    this.ledger.move(task, PENDING)
    if (spec === null || spec.delay === 0 || this.settings.mode === 'capture') line.tasksInLine.append(task)
    else joinLater(this, task, line, spec.delay)
  }

  /** Runs one attempt of a task. */
  execute (task: Task, line: Line): void {
    if (this.settings.mode === 'capture') {
      this.captured.push(capture(task, line))
      return this.#settleRun(task, line, CAPTURED)
    }
    this.ledger.move(task, RUNNING)
    const { spec } = task
    if (spec !== null) {
      task.extra.attempts++
      if (spec.timeout !== 0 || spec.signal || spec.definition !== null) {
        new Attempt(this, task, line, spec).start()
        return
      }
    }
    let result
    try {
      result = call(task, line, task.fn, task.args as unknown[])
      if (isThenable(result)) {
        line.onFulfilled ??= value => this.#end(line, true, value)
        line.onRejected ??= error => this.#end(line, false, error)
        asPromise(result).then(line.onFulfilled, line.onRejected)
        return
      }
    } catch (error) {
      return this.failed(task, line, error)
    }
    this.completed(task, line, result)
  }

  #end (line: Line, fulfilled: boolean, value: unknown): void {
    const task = line.current
    // The application's close has abandoned the task meanwhile.
    if (task === null) this.ledger.ended(line)
    else if (fulfilled) this.completed(task, line, value)
    else this.failed(task, line, value)
  }

  completed (task: Task, line: Line, result: unknown): void {
    task.note('result', result)
    this.#settleRun(task, line, COMPLETED)
  }

  /** An attempt has failed: another one follows, here or from the backend, or the task has failed. */
  failed (task: Task, line: Line, error: unknown): void {
    const { spec } = task
    if (this.returns(line, error)) {
      task.note('error', error)
      return this.#settleRun(task, line, STORED)
    }
    if (spec !== null && task.attempts < spec.attempts && !isUnrecoverable(error)) {
      this.ledger.retried++
      this.ledger.observer?.retried(task, error)
      this.report.retry(task, line, error)
      publishRetry(task, line, error)
      if (line.delivery !== null) {
        task.note('error', error)
        this.#settleRun(task, line, STORED)
      } else {
        this.ledger.move(task, PENDING)
        if (this.settings.onFailure === 'stop') line.held = task
        joinLater(this, task, line, spec.backoff === null ? 0 : backoffDelay(spec.backoff, task.attempts))
        this.runner.done(line)
      }
      return
    }
    this.fail(task, line, error)
    if (this.settings.onFailure === 'stop') {
      for (const other of [...line.tasks()]) this.drop(other, line, 'a task before it failed')
    }
    this.runner.done(line)
  }

  /** Whether a task returns to the backend: it fails after its signal has aborted for the application's close, by whatever error. */
  returns (line: Line, error: unknown): boolean {
    return line.delivery !== null && this.closeReason !== null && !isUnrecoverable(error)
  }

  /** See `TaskHandle.cancel`. A running task is cancelled only if its function listens to a signal. */
  cancel (task: Task, line: Line): boolean {
    const attempt = task.status === RUNNING ? line.attempt : null
    if (task.status === RUNNING && attempt?.listens !== true) return false
    this.report.cancelled(task, line)
    attempt?.abandon(new FST_BGT_CANCELLED(task.name))
    if (attempt === null) this.settle(task, line, CANCELLED)
    else this.#settleRun(task, line, CANCELLED)
    return true
  }

  /*
   * The user's code runs between a decision and its effect: a predicate, `onError`, a subscriber. It may cancel the task, and a settled
   * task stays as it is.
   */

  /** Gives a task its final state, wherever it waits. */
  settle (task: Task, line: Line, state: number, reason?: string): void {
    if (task.isSettled) return
    stopWaiting(task, line, this.ledger)
    this.ledger.settle(task, line, state, reason)
    if (line.held === task) {
      line.held = null
      this.runner.enqueue(line)
    }
  }

  /** Settles the task that the line was busy with. */
  #settleRun (task: Task, line: Line, state: number): void {
    this.ledger.settle(task, line, state)
    this.runner.done(line)
  }

  /** Settles a task that will not run. */
  drop (task: Task, line: Line, reason: string): void {
    if (task.isSettled) return
    this.report.dropped(task, line, reason)
    this.settle(task, line, DROPPED, reason)
  }

  /** @param by the task that has the key now */
  replace (task: Task, line: Line, by: Task): void {
    this.report.replaced(task, line, by)
    this.settle(task, line, REPLACED)
    this.threads?.forget(task)
  }

  /** Settles a task as failed. */
  fail (task: Task, line: Line, error: unknown): void {
    if (task.isSettled) return
    task.extra.error = error
    // The log has its id. A delivered task is found in its backend.
    if (line.delivery === null) line.remember(task)
    this.ledger.observer?.failed(task, line, error)
    this.report.failed(task, line, error)
    this.settle(task, line, FAILED)
  }
}
