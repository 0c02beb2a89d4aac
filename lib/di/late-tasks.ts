import type { FastifyBaseLogger } from 'fastify'
import type { CollectorParts } from '../collect/parts'
import { RequestTasks } from '../collect/request-tasks'
import type { Line } from '../run/line'
import type { Container } from './container'
import { DiLease } from './lease'

/**
 * The collector of a DI scope whose request has ended well and made no collector itself. Tasks start at once, with the request's id, log
 * and outcome, but with `null` for the request.
 */
export class LateTasks extends RequestTasks {
  readonly #log: FastifyBaseLogger
  readonly #requestId: string

  constructor (parts: CollectorParts, scope: Container, requestId: string, statusCode: number) {
    const scopeKeeper = { lease: (line: Line) => new DiLease(parts.engine, scope, line, true) }
    super({ engine: parts.engine, handOver: parts.handOver, scopeKeeper }, null, null)
    this.#log = parts.engine.logOf(requestId)
    this.#requestId = requestId
    this.outcome = { statusCode, error: null, failed: false, aborted: false }
  }

  override get requestId (): string {
    return this.#requestId
  }

  override get log (): FastifyBaseLogger {
    return this.#log
  }
}
