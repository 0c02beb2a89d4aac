import { Attempt } from './attempt'
import { publishAbandon } from './diagnostics'
import { FST_BGT_CANCELLED } from './errors'
import type { Line } from './line'
import type { Runtime } from './runtime'
import { capture } from './capture'
import { CANCELLED, CAPTURED, COMPLETED, DROPPED, FAILED, PENDING, RUNNING, STORED, type Task } from './task'
import { backoffDelay } from './task-options'
import { run } from './traced-run'
import { isUnrecoverable } from './unrecoverable-error'

/** Runs one attempt of one task, and decides what follows from how it ended. */
export class Executor {
  readonly #runtime: Runtime

  constructor (runtime: Runtime) {
    this.#runtime = runtime
  }

  execute (task: Task, line: Line): void {
    const { ledger, options } = this.#runtime
    if (options.mode === 'capture') {
      this.#runtime.captured.push(capture(task, line))
      ledger.settle(task, CAPTURED)
      this.#runtime.runner.done(line)
      return
    }
    ledger.move(task, RUNNING)
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
      result = run(task, line, task.fn, task.args as unknown[])
      if (isThenable(result)) {
        line.onFulfilled ??= value => this.#ended(line, true, value)
        line.onRejected ??= error => this.#ended(line, false, error)
        asPromise(result).then(line.onFulfilled, line.onRejected)
        return
      }
    } catch (error) {
      this.failed(task, line, error)
      return
    }
    this.completed(task, line, result)
  }

  #ended (line: Line, fulfilled: boolean, value: unknown): void {
    const task = line.current
    if (task === null) {
      // The application's close has given the task up meanwhile.
      this.#runtime.ledger.ended(line)
      return
    }
    if (fulfilled) this.completed(task, line, value)
    else this.failed(task, line, value)
  }

  completed (task: Task, line: Line, result: unknown): void {
    task.note('result', result)
    this.#runtime.ledger.settle(task, COMPLETED)
    this.#runtime.runner.done(line)
  }

  /** Calls off a running task, if its function listens to a signal. */
  cancel (task: Task, line: Line): boolean {
    const attempt = task.extra.attempt
    if (attempt === null || !attempt.listens) return false
    this.#runtime.report.cancelled(task, line)
    attempt.giveUp(new FST_BGT_CANCELLED(task.name))
    this.#runtime.ledger.settle(task, CANCELLED)
    this.#runtime.runner.done(line)
    return true
  }

  /** Takes no more notice of a task that has not ended by the close of the application. */
  abandon (task: Task, line: Line, reason: Error): void {
    task.note('error', reason)
    const givenBack = line.givesBack(reason)
    if (task.status !== RUNNING) return line.settle(task, givenBack ? STORED : DROPPED, 'the application has closed')
    if (task.extra.attempt !== null) task.extra.attempt.giveUp(reason)
    else {
      this.#runtime.ledger.abandon(line)
      publishAbandon(task, line, reason)
    }
    line.current = null
    this.#runtime.ledger.settle(task, givenBack ? STORED : FAILED)
  }

  failed (task: Task, line: Line, error: unknown): void {
    const { ledger, runner, report, options } = this.#runtime
    const spec = task.spec
    if (line.givesBack(error)) {
      task.note('error', error)
      ledger.settle(task, STORED)
      runner.done(line)
      return
    }
    if (spec !== null && task.attempts < spec.attempts && !isUnrecoverable(error)) {
      ledger.retried++
      report.retry(task, line, error)
      if (line.retriesElsewhere) {
        task.note('error', error)
        ledger.settle(task, STORED)
        runner.done(line)
        return
      }
      ledger.move(task, PENDING)
      this.#retry(task, line, spec.backoff === null ? 0 : backoffDelay(spec.backoff, task.attempts))
      return
    }
    report.failed(task, line, error)
    ledger.settle(task, FAILED)
    if (options.onFailure === 'stop') {
      for (const other of [...line.tasks()]) {
        // A subscriber may have called it off meanwhile.
        if (!other.isSettled) line.drop(other, 'a task before it failed')
      }
    }
    runner.done(line)
  }

  #retry (task: Task, line: Line, ms: number): void {
    const { runner, options } = this.#runtime
    const keepsTheLine = options.onFailure === 'stop'
    if (keepsTheLine) line.held = task
    line.wait(task, ms, () => {
      if (keepsTheLine) {
        line.held = null
        line.prepend(task)
      } else {
        line.append(task)
      }
      runner.enqueue(line)
    })
    runner.done(line)
  }
}

const { then } = Promise.prototype

/** A promise that calls back once, and later. One of another make, or with a `then` of its own, may do as it likes. */
export function asPromise (value: PromiseLike<unknown>): Promise<unknown> {
  return value.then === then && value.constructor === Promise ? value as Promise<unknown> : new Promise(resolve => { resolve(value) })
}

export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return value !== null && (typeof value === 'object' || typeof value === 'function') &&
    typeof (value as PromiseLike<unknown>).then === 'function'
}
