import type { Job, Queue, Worker } from 'bullmq'

/*
 * All that is used of BullMQ beyond its documentation, seen in 6.4 to 6.7. Each entry says why, and links the upstream issue.
 *
 * Not here, because other programs rely on it too: the keys and tables of a queue, which BullMQ's libraries for Python, PHP, Rust,
 * Elixir and .NET share. They are used by redis/failed.ts, redis/unreadable.ts, postgres/*.ts and direct/.
 */

/**
 * Sets the schema in which BullMQ looks for its tables when it connects. With a ready pool it is `bullmq`, wherever the pool's search path
 * leads; both members are public, but `schema` is read-only. Known limit: https://docs.bullmq.io/guide/postgresql#schema.
 */
export function setSchema (backend: object, schema: string): void {
  Object.defineProperty((backend as { connection: object }).connection, 'schema', { value: schema })
}

/**
 * Sets the seconds for which a worker waits for a job while another one is delayed. BullMQ's own 10 s on Redis outlast
 * `socketTimeout`; on Postgres it waits for an hour, also where a notification was lost. No option sets it; no issue exists yet.
 */
export function setBlockTimeout (worker: Worker, seconds: number): void {
  Object.defineProperty(worker.getBackend(), 'maximumBlockTimeout', { value: seconds })
}

/**
 * Stops the timer that renews locks. It keeps a process alive whose worker cannot close because its server is away:
 * https://github.com/taskforcesh/bullmq/issues/4656.
 */
export async function stopRenewingLocks (worker: Worker): Promise<void> {
  await (worker as unknown as { lockManager: { close (): Promise<void> } }).lockManager.close()
}

/** Takes a method of one job over: BullMQ's worker calls it for each attempt that failed, or whose end could not be stored. */
export function onMoveToFailed (job: Job, moveToFailed: (original: Job['moveToFailed'], ...args: Parameters<Job['moveToFailed']>) => Promise<void | unknown[]>): void {
  // No event comes before BullMQ takes a completed job for a failed one; no issue exists yet.
  const original = job.moveToFailed.bind(job)
  job.moveToFailed = async (...args) => moveToFailed(original, ...args)
}

/** BullMQ's scripts take this token for that of any worker: to fail a job whose own token is not known. No issue exists yet. */
export const ANY_TOKEN = '0'

/**
 * The message of a user's error, changed where BullMQ would take it for its own: its worker compares messages with
 * 'bullmq:rateLimitExceeded', for want of a code. No issue exists yet.
 */
export function foreignMessage (message: string): string {
  return message.replace(/^bullmq:/, 'Error: bullmq:')
}

/** The version of the BullMQ that made a queue. Its `package.json` may be out of reach in a bundle. */
export function versionOf (queue: Queue): string {
  // `metaValues` is public; the form of the text, 'bullmq:6.7.0', is not documented.
  return String(queue.metaValues.version).replace(/^.*:/, '')
}

/** Columns of BullMQ's rows on Postgres that hold times, in ms of the epoch. No issue exists yet. */
export const TIME_COLUMNS = ['added_at_ms', 'processed_at_ms', 'finished_at_ms', 'next_delay']

/** The common part of the names of BullMQ's functions for schedules. */
export const SCHEDULER = 'job_scheduler'
