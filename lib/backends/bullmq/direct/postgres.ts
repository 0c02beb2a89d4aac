import { createHash } from 'node:crypto'
import type { JobJson, Queue } from 'bullmq'
import { AT_ONCE, mapInSlices } from '../../../shared/slices'
import { addToPostgres } from '../postgres/batches'
import { runOnTables, type TaskPool } from '../postgres/pool'
import type { JobWriter } from '../job-writer'
import { addSplit } from './split'

/** Versions of BullMQ's tables and functions, of 6.4, 6.5 and 6.7, for which the statement does what BullMQ's `add_flow` does. */
const KNOWN_TABLES = [4, 5, 11]

const VERSION = 'SELECT max(version) AS version FROM migration'

/** The text is the same for any number of jobs, which are one JSON: see {@link given}. NOTIFY only if a row was inserted. */
const INSERT = prepared(`
  WITH known AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtext('bullmq:finalization'), hashtext($1))
      FROM migration HAVING max(version) IN (${KNOWN_TABLES.join()})
  ), added AS (
    INSERT INTO job (queue, id, seq, name, state, data, opts, delay_ms, max_attempts, added_at_ms, process_at_ms)
    SELECT $1, id, nextval('job_seq'), name, (CASE WHEN delay > 0 THEN 'delayed' ELSE 'waiting' END)::job_state,
           data, opts, delay, attempts, added_at, CASE WHEN delay > 0 THEN added_at + delay END
      FROM known, json_to_recordset($2)
        AS given (id text, name text, data jsonb, opts jsonb, delay bigint, attempts integer, added_at bigint)
    ON CONFLICT (queue, id) DO NOTHING
    RETURNING id, name, seq, state, process_at_ms
  ), published AS (
    INSERT INTO event (queue, event, data, created_at_ms)
    SELECT $1, events.event, events.data, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
      FROM added, LATERAL (VALUES
        (1, 'added', jsonb_build_object('jobId', id, 'name', name)),
        (2, state::text, jsonb_strip_nulls(jsonb_build_object('jobId', id, 'delay', process_at_ms)))
      ) AS events (n, event, data)
     ORDER BY seq, n
  )
  SELECT EXISTS (SELECT FROM known) AS known,
         CASE WHEN EXISTS (SELECT FROM added) THEN (pg_notify('bullmq_events', $1), pg_notify('bullmq_jobs', $1)) END`)

/** Removes events beyond the queue's limit, as BullMQ's functions do each time they add events. */
const TRIM = `
  DELETE FROM event
   WHERE queue = $1 AND (SELECT pg_try_advisory_xact_lock(hashtext('bullmq:evtrim:' || $1))) AND id <=
     (SELECT max(id) FROM event WHERE queue = $1) -
     (SELECT NULLIF(GREATEST(COALESCE(max(value::integer), 10000), 0), 0) FROM meta WHERE queue = $1 AND field = 'opts.maxLenEvents')`

/** Jobs, with two events each, after which events are trimmed. */
const TRIM_AFTER_JOBS = 1_000

/**
 * Stores jobs in Postgres by a statement of this package, which does for all of them at once what BullMQ's `add_flow` does for one after
 * the other. Jobs with a dedupe id are left to the plain writer; all are, once another process has changed BullMQ's tables.
 */
export class DirectPostgresWriter implements JobWriter {
  readonly kind = 'direct'
  readonly #queue: Queue
  readonly #pool: TaskPool
  readonly #plain: JobWriter
  readonly #failed: (error: Error) => void
  #isKnown = true
  #untrimmedJobs = 0

  private constructor (queue: Queue, pool: TaskPool, plain: JobWriter, failed: (error: Error) => void) {
    this.#queue = queue
    this.#pool = pool
    this.#plain = plain
    this.#failed = failed
  }

  /**
   * Resolves with `null` where the tables are not known.
   * @param queue one that is ready
   * @param failed told of an error for which no request waits
   */
  static async open (queue: Queue, pool: TaskPool, plain: JobWriter, failed: (error: Error) => void): Promise<DirectPostgresWriter | null> {
    const rows = await runOnTables(pool, VERSION)
    const isKnown = rows !== null && KNOWN_TABLES.includes((rows[0] as { version: number }).version)
    return isKnown ? new DirectPostgresWriter(queue, pool, plain, failed) : null
  }

  async add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    if (!this.#isKnown) return this.#plain.add(batches)
    return addSplit(batches, ({ deduplicationId }) => deduplicationId === undefined,
      own => addToPostgres(own, jobs => this.#put(jobs), this.#failed),
      others => this.#plain.add(others))
  }

  async #put (jobs: JobJson[]): Promise<string[]> {
    const rows = await runOnTables(this.#pool, INSERT, [this.#queue.name, await given(await this.#pool.onServerClock(jobs))])
    if (rows === null || !(rows[0] as { known: boolean }).known) {
      this.#isKnown = false
      return this.#putPlain(jobs)
    }
    this.#trim(jobs.length)
    return jobs.map(({ id }) => id)
  }

  async #putPlain (jobs: JobJson[]): Promise<string[]> {
    const [result] = await this.#plain.add([jobs])
    if (result instanceof Error) throw result
    return result!
  }

  #trim (addedJobs: number): void {
    this.#untrimmedJobs += addedJobs
    if (this.#untrimmedJobs < TRIM_AFTER_JOBS) return
    this.#untrimmedJobs = 0
    runOnTables(this.#pool, TRIM, [this.#queue.name]).catch(this.#failed)
  }
}

/** Jobs as the JSON that the statement reads. Their data are JSON already. */
async function given (jobs: JobJson[]): Promise<string> {
  const row = ({ id, name, data, opts, timestamp }: JobJson) => {
    const { delay = 0, attempts } = opts
    return `{"data":${data},${JSON.stringify({ id, name, opts, delay, attempts, added_at: timestamp }).slice(1)}`
  }
  const rows = jobs.length > AT_ONCE ? await mapInSlices(jobs, row) : jobs.map(row)
  return `[${rows.join()}]`
}

/**
 * A statement that each connection plans once: planning takes Postgres as long as a job does. The name is made of the text, as other
 * programs may use the same connections.
 */
function prepared (text: string): { name: string, text: string } {
  return { name: `fastify-background-tasks:${createHash('sha1').update(text).digest('hex').slice(0, 16)}`, text }
}
