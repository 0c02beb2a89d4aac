import type { FastifyBaseLogger } from 'fastify'
import { Line, type LineEngine } from '../run/line'

/**
 * The line of a task that has the request's id and logger, but no part in its order and its outcome: of a transaction, or added by another
 * task. Made by the `add`; ends when its tasks have settled.
 */
export class OriginLine extends Line {
  readonly #origin: Line | null

  /** @param origin the line of the request, of the delivery or of the task that adds; `null` for the application */
  constructor (engine: LineEngine, origin: Line | null) {
    // The first of all: tasks that lead to tasks must not make a chain of lines that never ends.
    const first = origin instanceof OriginLine ? origin.#origin : origin
    super(engine, first === null ? null : first.request)
    this.#origin = first
  }

  /** A collector that has outlived its request knows the id and the logger alone. */
  override get requestId (): string | null {
    return this.#origin === null ? null : this.#origin.requestId
  }

  override get log (): FastifyBaseLogger {
    return this.#origin === null ? this.engine.log : this.#origin.log
  }
}
