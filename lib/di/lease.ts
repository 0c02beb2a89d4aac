import { handledOf } from '../collect/handler'
import type { ScopeLease } from '../collect/parts'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { setDeadline } from '../shared/deadline'
import { asPromise, isThenable } from '../shared/promises'
import type { Container } from './container'

/**
 * Keeps a DI scope from being disposed while a request's tasks and handler need it. Made by the first `add`, ends when both have ended.
 * Until then the scope's `dispose` only notes the call and resolves at once, so that no hook waits.
 */
export class DiLease implements ScopeLease {
  readonly #engine: Engine
  readonly #scope: Container
  readonly #line: Line
  /** Whether the lease began after `@fastify/awilix` had disposed the scope: nothing else disposes services that are resolved later. */
  readonly #late: boolean
  readonly #dispose: Container['dispose']
  #isDisposeCalled = false
  /** Whether the handler is still at work; `null` before the first question. */
  #handlerRuns: boolean | null = null

  constructor (engine: Engine, scope: Container, line: Line, late: boolean) {
    this.#engine = engine
    this.#scope = scope
    this.#line = line
    this.#late = late
    this.#dispose = scope.dispose
    scope.dispose = () => {
      this.#isDisposeCalled = true
      return Promise.resolve()
    }
  }

  /** Whether the handler is still at work. The first call starts a wait of at most `abortGrace` for the handler. */
  awaitsHandler (): boolean {
    if (this.#handlerRuns === null) {
      const { request } = this.#line
      const handled = request === null ? undefined : handledOf(request)
      this.#handlerRuns = isThenable(handled)
      if (isThenable(handled)) this.#awaitHandler(handled)
    }
    return this.#handlerRuns
  }

  #awaitHandler (handled: PromiseLike<unknown>): void {
    const { ledger, settings } = this.#engine
    const end = () => {
      if (!ledger.handlers.delete(end)) return
      clearGrace()
      this.#handlerRuns = false
      if (this.#line.unsettled === 0) ledger.closeSettled(this.#line)
      ledger.notify()
    }
    ledger.handlers.add(end)
    const clearGrace = setDeadline(settings.abortGrace, end, false)
    asPromise(handled).then(end, end)
  }

  end (aborted: boolean): void {
    const { scopes, settings } = this.#engine
    this.#scope.dispose = this.#dispose
    if (this.#isDisposeCalled || (settings.disposeScopes && (aborted || this.#late))) scopes.dispose(this.#scope, this.#line)
  }
}
