import type { createPostgresBackend } from 'bullmq'

/* The statements of BullMQ's backend on Postgres, and those of our own beside them. */

type Factory = typeof createPostgresBackend

/** The text of one, with a name if it is to be prepared. */
type Statement = string | { name: string, text: string }

/** What all of them go through. */
interface Querying {
  query (statement: Statement, values: unknown[]): Promise<{ rows: unknown[] }>
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
    const attempt = async (left: number, statement: Statement, values: unknown[]): Promise<{ rows: unknown[] }> => {
      try {
        return await query.call(backend, statement, values)
      } catch (error) {
        if ((error as { code?: unknown }).code !== DEADLOCK || left === 1) throw error
        return attempt(left - 1, statement, values)
      }
    }
    querying.query = (statement, values) => attempt(ATTEMPTS, statement, values)
    return backend
  }
}

/** BullMQ looks for the tables of a ready pool in its default schema, wherever the pool's search path leads (BullMQ 6.7). */
export function inSchema (create: Factory, schema: string | undefined): Factory {
  return (name, options, more) => {
    const backend = create(name, options, more)
    if (schema !== undefined) (backend as unknown as { connection: { schema: string } }).connection.schema = schema
    return backend
  }
}

/**
 * Postgres' errors of a table, a function, a column or a type that is not there, and of a prepared statement that is not there, or
 * is already: what a proxy hands each transaction another connection for.
 */
const UNKNOWN_NAME = /^(?:42(?:P01|883|703|704|P05)|26000)$/

/**
 * Runs a statement on BullMQ's tables, and resolves with its rows; with `null` where BullMQ has other names for what it
 * uses, as its first versions had, or the connection does not keep what is prepared.
 */
export async function runOnTables (backend: object, statement: Statement, values: unknown[]): Promise<unknown[] | null> {
  try {
    return (await (backend as Querying).query(statement, values)).rows
  } catch (error) {
    if (UNKNOWN_NAME.test(String((error as { code?: unknown }).code))) return null
    throw error
  }
}
