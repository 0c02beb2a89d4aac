import type { BackoffOptions } from '../../types/task'
import { MAX_TIMER_MS } from './check-options'

/**
 * Milliseconds before the next attempt, at most {@link MAX_TIMER_MS}. The formula is BullMQ's, so that tasks wait equally long on every
 * backend: https://docs.bullmq.io/guide/retrying-failing-jobs.
 * @param attemptsMade failed attempts, from 1 on
 */
export function backoffDelay ({ type, delay, jitter }: Required<BackoffOptions>, attemptsMade: number): number {
  // `0 * 2 ** 1_024` is NaN.
  const wait = type === 'exponential' && delay !== 0 ? delay * 2 ** (attemptsMade - 1) : delay
  return Math.min(Math.round(wait * (1 - jitter * Math.random())), MAX_TIMER_MS)
}
