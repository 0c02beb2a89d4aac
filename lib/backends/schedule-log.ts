import type { FastifyBaseLogger } from 'fastify'
import type { StoredSchedule } from '../../types/backend'

/* The lines of a backend about its schedules. */

/** A run was not stored: the last one has not settled. */
export function logSkipped (log: FastifyBaseLogger, { id, task }: StoredSchedule, due: number, lastId: string): void {
  log.warn({ schedule: { id, due: new Date(due), last: lastId }, task: { name: task.label } }, 'background task skipped: the last run of its schedule has not settled')
}

/** A stored schedule was removed: the application has it no longer. */
export function logRemoved (log: FastifyBaseLogger, id: string, task: string): void {
  log.info({ schedule: { id }, task: { name: task } }, 'schedule removed: it is no longer among those of the application')
}

/** A stored schedule has got another rule. */
export function logChanged (log: FastifyBaseLogger, id: string, next: number | null): void {
  log.info({ schedule: { id, next: next === null ? null : new Date(next) } }, 'schedule changed: it has another rule')
}
