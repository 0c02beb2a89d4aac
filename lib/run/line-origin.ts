import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Delivery, LogOf } from '../../types/backend'
import type { Add, AppBackgroundTasks } from '../../types/collector'
import type { Carrier } from '../../types/messages'
import type { Origin } from '../task/origin'

/** The engine, as an origin sees it. */
export interface OriginEngine {
  readonly app: AppBackgroundTasks
  readonly log: FastifyBaseLogger
  readonly logOf: LogOf
}

/** Where the tasks of a line come from: a request, a delivery of the backend, or the application. */
export class LineOrigin<Port extends OriginEngine> implements Origin {
  readonly engine: Port
  readonly request: FastifyRequest | null
  /** The backend's task whose attempt this is; `null` for a task of this process. */
  readonly delivery: Delivery | null
  #log: FastifyBaseLogger | null = null

  constructor (engine: Port, request: FastifyRequest | null, delivery: Delivery | null = null) {
    this.engine = engine
    this.request = request
    this.delivery = delivery
  }

  get app (): AppBackgroundTasks {
    return this.engine.app
  }

  get requestId (): string | null {
    return this.request?.id ?? this.delivery?.task.requestId ?? null
  }

  get log (): FastifyBaseLogger {
    if (this.delivery !== null) this.#log ??= this.engine.logOf(this.requestId)
    return this.#log ?? this.request?.log ?? this.engine.log
  }

  get carrier (): Carrier | null {
    return this.delivery?.task.carrier ?? null
  }

  /** The collector for tasks that a task of this line adds. */
  get collector (): Add {
    return this.engine.app
  }
}
