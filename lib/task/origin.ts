import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { AppBackgroundTasks } from '../../types/collector'
import type { Carrier } from '../../types/messages'

/** Where a task comes from: a request, the application, or a delivery of the backend. */
export interface Origin {
  readonly app: AppBackgroundTasks
  /** `null` outside a request of this process. */
  readonly request: FastifyRequest | null
  readonly requestId: string | null
  readonly log: FastifyBaseLogger
  /** The trace context that came through the backend; `null` for a task of this process. */
  readonly carrier: Carrier | null
}
