import type { TaskBackend } from '../../../types/backend'
import { BullmqBackend } from './backend'
import { type BullmqOptions, resolveOptions } from './options'

export type { Retention } from '../retention'
export type { BullmqOptions } from './options'

/**
 * Keeps tasks in BullMQ: in Redis, or in Postgres.
 * @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION
 */
export function bullmq (options: BullmqOptions): TaskBackend {
  return new BullmqBackend(resolveOptions(options))
}
