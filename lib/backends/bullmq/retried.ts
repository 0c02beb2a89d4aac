import type { Job } from 'bullmq'

/** Moves a failed job back to those that wait. Resolves with `false` if it has not failed, or is gone: another process was first. */
export async function retried (job: Job): Promise<boolean> {
  try {
    await job.retry('failed', { resetAttemptsMade: true })
    return true
  } catch (error) {
    // An `ErrorCode` of BullMQ's. The server's own errors have none, or a text.
    if (typeof (error as { code?: unknown }).code === 'number') return false
    throw error
  }
}
