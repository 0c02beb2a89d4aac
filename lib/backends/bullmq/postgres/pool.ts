import { EventEmitter } from 'node:events'
import type { JobJson, PgPool, PgPoolClient, PgQueryResult } from 'bullmq'
import type { Client } from 'pg'
import { ignoreRejection } from '../../../shared/promises'
import { SCHEDULER } from '../private'
import { moveRows, moveValues, SERVER_TIME, type ServerClock } from './clock'

/** The text of a statement, with a name if it is to be prepared. */
export type Statement = string | { name: string, text: string }

/** Postgres' code of a statement that waited for another one, which waited for it. Postgres has undone this one. */
const DEADLOCK = '40P01'

/** Postgres' code of a server that has become a standby. */
const READ_ONLY = '25006'

const MAX_ATTEMPTS = 5

/** A pool of node-postgres, as far as it is used. */
interface Pool extends Omit<PgPool, 'query' | 'connect'> {
  readonly options?: { readonly keepAlive?: boolean }
  query (statement: Statement, values: readonly unknown[]): Promise<PgQueryResult>
  connect (): Promise<PgPoolClient>
}

/** Connections of a pool, and what else a {@link TaskPool} has to know. */
export interface PoolSource {
  readonly pool: Pool
  /** Whether the pool is this package's, and ends with the {@link TaskPool}. */
  readonly isOwn: boolean
  /** Makes a connection that is no part of the pool, for a worker to listen with; `null` if it is to be one of the pool. */
  readonly newClient: (() => Client) | null
  readonly clock: ServerClock
  /** Told that the server is not the primary any more. */
  readonly readOnly: (error: Error) => void
}

/**
 * The `pg.Pool` that BullMQ is given, around a pool of this package or of the user's: tries statements again that met a deadlock, and
 * moves times between this machine's clock and the server's. Made for one queue or one worker, and ended after it.
 */
export class TaskPool extends EventEmitter implements PgPool {
  readonly #source: PoolSource
  readonly #clients = new Set<Client>()

  constructor (source: PoolSource) {
    super()
    this.#source = source
    // `emit` throws for an error without a listener.
    source.pool.on('error', error => { if (this.listenerCount('error') > 0) this.emit('error', error) })
  }

  /** Read by BullMQ: whether the connections notice that the other side is gone. */
  get options (): object | undefined {
    return this.#source.pool.options
  }

  async query<Row = any> (statement: Statement, values: readonly unknown[] = []): Promise<PgQueryResult<Row>> {
    const { text } = typeof statement === 'string' ? { text: statement } : statement
    // Ids of scheduled jobs have times in them, which have to be the same in each process.
    const aheadMs = text.includes(SCHEDULER) ? 0 : await this.#source.clock.ahead()
    const result = await this.#attempt(statement, moveValues(values, aheadMs), MAX_ATTEMPTS)
    moveRows(result.rows, -aheadMs)
    return result
  }

  /** The server's time, in ms of the epoch. */
  async serverTime (): Promise<number> {
    const { rows } = await this.#source.pool.query(SERVER_TIME, [])
    return Number((rows[0] as { time: string }).time)
  }

  /**
   * Each statement is a transaction of its own, so one that met a deadlock can be tried again. Workers meet deadlocks over delayed
   * jobs that are due (BullMQ 6.7): the end of a completed task would be lost, and the task run again.
   */
  async #attempt (statement: Statement, values: readonly unknown[], left: number): Promise<PgQueryResult> {
    try {
      return await this.#source.pool.query(statement, values)
    } catch (error) {
      const { code } = error as { code?: unknown }
      if (code === READ_ONLY) this.#source.readOnly(error as Error)
      if (code !== DEADLOCK || left === 1) throw error
      return this.#attempt(statement, values, left - 1)
    }
  }

  /** A connection of the pool, for a short time. */
  async borrow (): Promise<PgPoolClient> {
    const client = await this.#source.pool.connect()
    // An error without a listener ends the process; the statement under way rejects with it.
    const listener = () => {}
    const release = client.release.bind(client)
    client.on('error', listener)
    return Object.assign(client, {
      release (destroy?: boolean) {
        (client as unknown as EventEmitter).off('error', listener)
        release(destroy)
      }
    })
  }

  /**
   * A connection for BullMQ, which keeps one to listen for notifications. An additional one does not take a place of the pool for as long
   * as a worker lives; a pool of the user's may be limited on purpose.
   */
  async connect (): Promise<PgPoolClient> {
    const { newClient } = this.#source
    if (newClient === null) return this.borrow()
    const client = newClient()
    // An error without a listener ends the process.
    client.on('error', () => {})
    await client.connect()
    this.#clients.add(client)
    const release = () => { ignoreRejection(this.#end(client)) }
    return Object.assign(client, { release }) as unknown as PgPoolClient
  }

  async #end (client: Client): Promise<void> {
    // BullMQ has removed its listeners by now.
    client.on('error', () => {})
    await client.end()
    this.#clients.delete(client)
  }

  /** Jobs with their times moved onto the server's clock, for statements that are given them as one JSON. */
  async onServerClock (jobs: JobJson[]): Promise<JobJson[]> {
    const aheadMs = await this.#source.clock.ahead()
    return aheadMs === 0 ? jobs : jobs.map(job => ({ ...job, timestamp: job.timestamp + aheadMs }))
  }

  /** Ends the connections; a pool of the user's stays open. BullMQ never ends a pool that it was given. */
  async end (): Promise<void> {
    const { pool, isOwn } = this.#source
    // A pool of the user's keeps the listener, as BullMQ would leave its own: without any, a lost connection would end the process.
    if (isOwn) await Promise.all([pool.end(), ...[...this.#clients].map(client => this.#end(client))])
  }
}

/**
 * Postgres' codes of a table, a function, a column or a type that is not there, and of a prepared statement that is not there, or
 * is already: a proxy may hand each transaction another connection.
 */
const UNKNOWN_NAME = /^(?:42(?:P01|883|703|704|P05)|26000)$/

/**
 * Runs a statement on BullMQ's tables, and resolves with its rows; with `null` where BullMQ has other names for what the statement
 * uses, as its first versions had, or the connection does not keep what is prepared.
 */
export async function runOnTables (pool: TaskPool, statement: Statement, values?: unknown[]): Promise<unknown[] | null> {
  try {
    return (await pool.query(statement, values)).rows
  } catch (error) {
    if (UNKNOWN_NAME.test(String((error as { code?: unknown }).code))) return null
    throw error
  }
}
