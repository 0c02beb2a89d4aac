import type { Container } from './di-scope'
import type { Line } from './line'
import type { Task } from './task'

/**
 * Keeps a DI scope from being disposed. Meanwhile its `dispose` notes the wish and resolves at once, so that no hook
 * waits for the tasks.
 */
export class ScopeLease {
  readonly #scope: Container
  readonly #line: Line
  /** Taken after the response, when whoever disposes scopes has done so: what is resolved from then on is left to us. */
  readonly #late: boolean
  readonly #dispose: Container['dispose']
  #wished = false

  constructor (scope: Container, line: Line, late: boolean) {
    this.#scope = scope
    this.#line = line
    this.#late = late
    this.#dispose = scope.dispose
    scope.dispose = () => {
      this.#wished = true
      return Promise.resolve()
    }
  }

  /** @param aborted Whether the client has left, so that nobody else disposes the scope. */
  end (aborted: boolean): void {
    const { disposeScopes } = this.#line.runtime.options
    this.#scope.dispose = this.#dispose
    if (this.#wished || (disposeScopes && (aborted || this.#late))) disposeScope(this.#scope, this.#line)
  }
}

/**
 * Disposes a scope that the tasks of a line have used, or one of them alone. The application's close and `idle()` wait for
 * it.
 */
export async function disposeScope (scope: Container, line: Line, task?: Task): Promise<void> {
  const { ledger, report } = line.runtime
  const disposal = { line, task }
  ledger.disposals.add(disposal)
  try {
    await scope.dispose()
  } catch (error) {
    report.disposalFailed(line, error, task)
  }
  ledger.disposals.delete(disposal)
  ledger.notify()
}
