import type { Report } from '../observe/report'
import type { Task } from '../task/task'
import type { Ledger } from './ledger'
import type { Line } from './line'

/** A DI scope, as far as running tasks needs it. */
export interface Scope {
  dispose (): Promise<void>
}

/** Makes a DI scope for one attempt of a defined task. */
export interface ScopeMaker {
  createScope (line: Line): Scope
}

/** Disposes DI scopes that tasks have used. The application's close and `idle()` wait for that. */
export class Scopes {
  readonly #ledger: Ledger
  readonly #report: Report

  constructor (ledger: Ledger, report: Report) {
    this.#ledger = ledger
    this.#report = report
  }

  /** @param task of a scope that one attempt alone has used */
  async dispose (scope: Scope, line: Line, task?: Task): Promise<void> {
    const disposal = { line, task }
    this.#ledger.disposals.add(disposal)
    try {
      await scope.dispose()
    } catch (error) {
      this.#report.disposalFailed(line, error, task)
    }
    this.#ledger.disposals.delete(disposal)
    this.#ledger.notify()
  }
}
