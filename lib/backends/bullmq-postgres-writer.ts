import type { JobJson, Queue } from 'bullmq'
import { createHash } from 'node:crypto'
import { runOnTables } from './bullmq-postgres'

/*
 * How jobs are stored in Postgres: by a statement of our own, which does for all of them at once what BullMQ's `add_flow` does
 * for one after the other. Those with a dedupe id, and all where BullMQ's tables are of a version that is not known here, are left to
 * BullMQ's functions.
 */

/** The versions of BullMQ's tables and functions, of 6.4, 6.5 and 6.7, beside which the statement does what `add_flow` does. */
const KNOWN = [4, 5, 11]

/** The text is the same for any number of jobs: `given` makes one JSON of them. Whoever inserts nothing has nobody notified. */
const INSERT = prepared(`
  WITH known AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtext('bullmq:finalization'), hashtext($1))
      FROM migration HAVING max(version) IN (${KNOWN.join()})
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

/** BullMQ's functions do this each time they add events. */
const TRIM = `
  DELETE FROM event
   WHERE queue = $1 AND (SELECT pg_try_advisory_xact_lock(hashtext('bullmq:evtrim:' || $1))) AND id <=
     (SELECT max(id) FROM event WHERE queue = $1) -
     (SELECT NULLIF(GREATEST(COALESCE(max(value::integer), 10000), 0), 0) FROM meta WHERE queue = $1 AND field = 'opts.maxLenEvents')`

/** So many jobs, with two events each, between two looks for events that need not be kept any longer. */
const TRIM_AFTER = 1_000

/** The classes of Postgres' errors that tell of the data, not of the server: 22 and 23. */
const DATA_ERROR = /^2[23]/

/** Stores jobs of a BullMQ queue in Postgres. */
export class PostgresWriter {
  readonly #queue: Queue
  readonly #failed: (error: Error) => void
  /** Whether the tables are of a version that is known. */
  #known = true
  #untrimmed = 0

  /**
   * @param queue one that is ready
   * @param failed what went wrong where nobody waits for it
   */
  constructor (queue: Queue, failed: (error: Error) => void) {
    this.#queue = queue
    this.#failed = failed
  }

  /** Stores batches of jobs, each whole or not at all. The result has for each the ids, or the error that kept it out. */
  async add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    const plain: number[] = []
    const keyed: number[] = []
    batches.forEach((jobs, index) => (jobs.some(({ deduplicationId }) => deduplicationId !== undefined) ? keyed : plain).push(index))
    const results: Array<string[] | Error> = []
    const store = async (indexes: number[], statement: (jobs: JobJson[]) => Promise<string[]>) => {
      const stored = await this.#store(indexes.map(index => batches[index]!), statement)
      indexes.forEach((index, place) => { results[index] = stored[place]! })
    }
    await Promise.all([
      store(plain, jobs => this.#insert(jobs)),
      store(keyed, jobs => this.#addFlow(jobs))
    ])
    return results
  }

  /** @param statement stores all jobs or none */
  async #store (batches: JobJson[][], statement: (jobs: JobJson[]) => Promise<string[]>): Promise<Array<string[] | Error>> {
    if (batches.length === 0) return []
    try {
      const ids = await statement(batches.flat())
      return batches.map(({ length }) => ids.splice(0, length))
    } catch (error) {
      // What is in one of the batches may be at fault, and the others must not be refused for it.
      if (batches.length === 1 || !DATA_ERROR.test(String((error as { code?: unknown }).code))) return batches.map(() => error as Error)
      return (await Promise.all(batches.map(jobs => this.#store([jobs], statement)))).flat()
    }
  }

  async #insert (jobs: JobJson[]): Promise<string[]> {
    const rows = this.#known ? await runOnTables(this.#queue.getBackend(), INSERT, [this.#queue.name, given(jobs)]) : null
    if (rows === null || !(rows[0] as { known: boolean }).known) {
      this.#known = false
      return this.#addFlow(jobs)
    }
    this.#trim(jobs.length)
    return jobs.map(({ id }) => id)
  }

  #trim (added: number): void {
    this.#untrimmed += added
    if (this.#untrimmed < TRIM_AFTER) return
    this.#untrimmed = 0
    runOnTables(this.#queue.getBackend(), TRIM, [this.#queue.name]).catch(this.#failed)
  }

  /** One alone is faster by itself, and `addJobs` is slower: it makes two temporary tables each time (BullMQ 6.7). */
  async #addFlow (jobs: JobJson[]): Promise<string[]> {
    const { name: queueName, opts: { prefix } } = this.#queue
    const backend = this.#queue.getBackend()
    if (jobs.length === 1) return [await backend.addJob(jobs[0]!, jobs[0]!.id)]
    const results = await backend.addFlow(jobs.map(job => ({ queueName, prefix: prefix as string, jobData: job, jobId: job.id, parentKeyOpts: {} })))
    return results.map(([error, id]) => {
      if (error !== null) throw error
      return String(id)
    })
  }
}

/** The jobs as JSON. Their data are JSON already. */
function given (jobs: JobJson[]): string {
  const rows = jobs.map(({ id, name, data, opts, timestamp }) => {
    const { delay = 0, attempts } = opts
    return `{"data":${data},${JSON.stringify({ id, name, opts, delay, attempts, added_at: timestamp }).slice(1)}`
  })
  return `[${rows.join()}]`
}

/**
 * A statement that each connection plans once: to plan it takes Postgres as long as a job does. Its name is the text's own, as
 * others may use the same connections.
 */
function prepared (text: string): { name: string, text: string } {
  return { name: `fastify-background-tasks:${createHash('sha1').update(text).digest('hex').slice(0, 16)}`, text }
}
