import type { FastifyBaseLogger } from 'fastify'
import type { Container } from './di-scope'
import { RequestTasks } from './request-tasks'
import type { Runtime } from './runtime'
import { ScopeLease } from './scope-lease'

/**
 * What a DI scope gives out when it is asked for the collector of a request that has ended well, without one, and that
 * nobody remembers any more. Tasks start at once, with the request's id, log and outcome, but with `null` for the request.
 */
export class LateTasks extends RequestTasks {
  readonly #scope: Container
  readonly #log: FastifyBaseLogger
  readonly #requestId: string

  constructor (runtime: Runtime, scope: Container, requestId: string, statusCode: number) {
    super(runtime, null as never, null as never)
    this.#scope = scope
    this.#log = runtime.logOf(requestId)
    this.#requestId = requestId
    this.outcome = { statusCode, error: null, aborted: false }
  }

  override get requestId (): string {
    return this.#requestId
  }

  override get log (): FastifyBaseLogger {
    return this.#log
  }

  protected override leaseScope (): ScopeLease {
    return new ScopeLease(this.#scope, this, true)
  }

  protected override watch (): void {}
}
