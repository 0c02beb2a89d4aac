import type { JobJson } from 'bullmq'
import { FST_BGT_INVALID_CLIENT, FST_BGT_NO_TRANSACTION } from '../../../shared/errors'
import { received } from '../../../shared/show'

type Query = (text: string, values: unknown[]) => PromiseLike<unknown>

/** Postgres' codes of a schema or a function that is not there. */
const NOT_THERE = ['3F000', '42883']

/**
 * The id of the transaction; a statement outside of one has an id of its own. `null` where temporary tables have names of BullMQ's:
 * its function would store the job in these.
 */
const transactionId = (schema: string) => `
  SELECT CASE WHEN NOT EXISTS (
           SELECT FROM pg_catalog.pg_class
            WHERE relnamespace = pg_my_temp_schema() AND to_regclass('${schema}.' || quote_ident(relname)) IS NOT NULL
         ) THEN pg_current_xact_id()::text END AS id`

/**
 * Calls BullMQ's function, which is the same in 6.4 to 6.7, in the given transaction alone. The times in the tables are the server's: see
 * clock.ts. One parameter, once in the text, and one column, both of the type `text`: all drivers and query builders can pass them on.
 */
const addJob = (schema: string) => `
  WITH given AS MATERIALIZED (SELECT $1::text::jsonb AS job)
  SELECT CASE WHEN job ->> 'transaction' = pg_current_xact_id_if_assigned()::text THEN
           ${schema}.add_job(job ->> 'queue', job ->> 'id', job ->> 'name', (job ->> 'data')::jsonb, job -> 'opts', 0, (job ->> 'delay')::bigint,
           (extract(epoch FROM clock_timestamp()) * 1000)::bigint, (job ->> 'attempts')::integer, NULL, NULL, NULL, job ->> 'dedupe', NULL, false)
         END AS id
    FROM given`

/**
 * Stores a job in the transaction that is open on a user's connection, and resolves with its id, or that of the job with its dedupe id. All
 * names have their schema, so that the session's search path does not matter; nothing is prepared.
 * @param schema quoted
 * @throws FST_BGT_INVALID_CLIENT, FST_BGT_NO_TRANSACTION (as rejections)
 */
export async function addInTransaction (client: unknown, schema: string, queue: string, job: JobJson): Promise<string> {
  const query = queryOf(client)
  const transaction = await idFrom(query, transactionId(schema), [], schema)
  if (transaction === null) throw new FST_BGT_INVALID_CLIENT(`one whose temporary tables have other names than those of ${schema}`, 'one on which they hide these')
  const { id, name, data, opts, deduplicationId: dedupe } = job
  const given = { transaction, queue, id, name, data, opts, delay: opts.delay ?? 0, attempts: opts.attempts, dedupe }
  const stored = await idFrom(query, addJob(schema), [JSON.stringify(given)], schema)
  // A pool is easily passed for its client, and an await forgotten: without this the task would be stored whatever becomes of the user's rows.
  if (stored === null) throw new FST_BGT_NO_TRANSACTION('pass the client, or the transaction of the query builder, that has begun, and no pool; await this call before the transaction ends')
  return stored
}

/** Runs a statement that returns one id or `null`. */
async function idFrom (query: Query, text: string, values: unknown[], schema: string): Promise<string | null> {
  const result = await query(text, values).then(undefined, (cause: unknown) => {
    if (!NOT_THERE.includes(sqlStateOf(cause) as string)) throw cause
    throw new FST_BGT_INVALID_CLIENT("one of the backend's database", `one to a database without ${schema}.add_job`, { cause })
  })
  const id = idIn(result)
  if (typeof id !== 'string' && id !== null) throw new FST_BGT_INVALID_CLIENT('a function that resolves with { rows }', `one that resolved with ${received(result)}`)
  return id
}

function queryOf (client: unknown): Query {
  if (typeof client === 'function') return client as Query
  const { query } = (client ?? {}) as { query?: unknown }
  if (typeof query === 'function') return query.bind(client)
  throw new FST_BGT_INVALID_CLIENT('a client with query(text, values), or a function (text, values) => { rows }', received(client))
}

/** The rows may come alone: those of Prisma and of postgres.js do. */
function idIn (result: unknown): unknown {
  const rows = Array.isArray(result) ? result : (result as { rows?: Array<{ id?: unknown }> } | undefined)?.rows
  return rows?.[0]?.id
}

/** Errors around that of the driver, at the most: Prisma has three. */
const MAX_WRAPPERS = 5

/** Postgres' code of an error that a query builder may have wrapped: Drizzle as its `cause`, Prisma in its `meta`. */
function sqlStateOf (error: unknown, wrappers = MAX_WRAPPERS): unknown {
  const { code, cause, meta, driverAdapterError } = Object(error) as Record<string, unknown>
  const inner = cause ?? meta ?? driverAdapterError
  return inner === undefined || wrappers === 0 ? code : sqlStateOf(inner, wrappers - 1)
}
