import type { createPostgresBackend } from 'bullmq'

type Factory = typeof createPostgresBackend

/** The part of BullMQ's backend on Postgres that all its statements go through. */
interface Querying {
  query (text: string, values: unknown[]): Promise<unknown>
}

/** Postgres' error of a statement that waited for another one, which waited for it. It has undone this one. */
const DEADLOCK = '40P01'

const ATTEMPTS = 5

/**
 * Has BullMQ's backend on Postgres try a statement again that was ended for a deadlock; each is a transaction of its own.
 * Workers come into deadlocks over delayed tasks and retries that are due (BullMQ 6.7): they would lose the end of a task
 * that has completed, which then ran once more.
 */
export function retryingDeadlocks (create: Factory): Factory {
  return (name, options, more) => {
    const backend = create(name, options, more)
    const querying = backend as unknown as Querying
    const { query } = querying
    querying.query = async (text, values) => {
      for (let attempt = 1; ; attempt++) {
        try {
          return await query.call(backend, text, values)
        } catch (error) {
          if ((error as { code?: unknown }).code !== DEADLOCK || attempt === ATTEMPTS) throw error
        }
      }
    }
    return backend
  }
}
