import type { ScheduleRecords } from '../schedule-record'
import { runOnTables, type TaskPool } from './pool'

const TABLE = 'fastify_background_tasks_schedule'

/** Two processes that make a table at the same time would fail without the lock. No right to make one is needed where it is there. */
const prepare = (table: string) => `
  DO $$ BEGIN
    IF to_regclass('${table.replaceAll("'", "''")}') IS NULL THEN
      PERFORM pg_advisory_xact_lock(hashtext('${TABLE}'));
      CREATE TABLE IF NOT EXISTS ${table} (queue text NOT NULL, id text NOT NULL, record text NOT NULL, PRIMARY KEY (queue, id));
    END IF;
  END $$`

const read = (table: string) => `
  SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text AS time, id, record
    FROM (VALUES (1)) AS one
    LEFT JOIN ${table} ON queue = $1 AND ($2::text[] IS NULL OR id = ANY($2))`

const insert = (table: string) => `INSERT INTO ${table} (queue, id, record) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id`
const update = (table: string) => `UPDATE ${table} SET record = $4 WHERE queue = $1 AND id = $2 AND record = $3 RETURNING id`
const remove = (table: string) => `DELETE FROM ${table} WHERE queue = $1 AND id = $2 AND record = $3 RETURNING id`

/** The records of a queue's schedules in Postgres: a table of this package, in BullMQ's schema. */
export class PostgresSchedules implements ScheduleRecords {
  readonly #queue: string
  readonly #pool: TaskPool
  readonly #table: string

  /** @param schema quoted */
  constructor (queue: string, pool: TaskPool, schema: string) {
    this.#queue = queue
    this.#pool = pool
    this.#table = `${schema}.${TABLE}`
  }

  async prepare (): Promise<void> {
    await this.#pool.query(prepare(this.#table))
  }

  async read (ids: readonly string[] | null): Promise<{ time: number, texts: Map<string, string> }> {
    // No process has had schedules yet where there is no table.
    const rows = (await runOnTables(this.#pool, read(this.#table), [this.#queue, ids]) ?? []) as Array<{ time: string, id: string | null, record: string }>
    const texts = new Map<string, string>()
    for (const { id, record } of rows) if (id !== null) texts.set(id, record)
    return { time: Number(rows[0]?.time), texts }
  }

  async swap (id: string, before: string | null, after: string | null): Promise<boolean> {
    const statement = before === null ? insert : after === null ? remove : update
    const values = [this.#queue, id, before, after].filter(value => value !== null)
    return (await this.#pool.query(statement(this.#table), values)).rows.length === 1
  }
}
