import type { FastifyRequest } from 'fastify'
import type { ScheduleInfo } from '../../types/schedule'
import type { TaskHandle } from '../../types/task'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import type { HandOver } from '../store/hand-over'
import type { Exchange } from './exchange'

/** The hold of a request's tasks and handler on its DI scope. */
export interface ScopeLease {
  /** Whether the handler is still at work. Then the line is asked once more when the handler has ended. */
  awaitsHandler (): boolean
  /** @param aborted whether the client has left, so that nothing else disposes the scope */
  end (aborted: boolean): void
}

/** The line of a request, which a DI scope is leased for. */
export interface RequestLine extends Line {
  readonly request: FastifyRequest
  readonly exchange: Exchange
}

/** The parts of a registration that collectors work with. */
export interface CollectorParts {
  readonly engine: Engine
  /** `null` without a backend. */
  readonly handOver: HandOver | null
  /** `null` without `@fastify/awilix`. */
  readonly scopeKeeper: { lease (line: RequestLine): ScopeLease | null } | null
}

/** The parts that the application's own collector works with. */
export interface AppParts extends CollectorParts {
  readonly schedules: { states (): Promise<ScheduleInfo[]>, run (id: string): Promise<TaskHandle | null> }
}
