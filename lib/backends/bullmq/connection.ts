import { FST_BGT_INVALID_OPTION } from '../../shared/errors'
import { withheld } from '../../shared/show'
import { isClient } from '../redis'

/* The option `connection`, and how long a connection may be silent. */

/** Seconds that a worker waits for a job before it asks again: a healthy server may be silent for as long. */
export const MAX_BLOCK_S = 5

/**
 * Longer than {@link MAX_BLOCK_S}, and shorter than a quarter of the default `lockDuration`: a renewal of locks that got no answer can be
 * sent again in time.
 */
const WORKER_SILENCE_MS = 7_000

/** The limits of `storeTimeout` as a time of silence: a slow server is not away. */
const STORE_SILENCE_MS = { least: 1_000, most: 20_000 }

/** Milliseconds without an answer after which a connection is given up and made anew. */
export interface Silence { readonly storing: number, readonly working: number }

export function silenceOf (storeTimeout: number): Silence {
  return { storing: Math.max(Math.min(storeTimeout, STORE_SILENCE_MS.most), STORE_SILENCE_MS.least), working: WORKER_SILENCE_MS }
}

/**
 * Whether a connection leads to Postgres, and not to Redis.
 * @throws FST_BGT_INVALID_OPTION
 */
export function isPostgres (connection: unknown): boolean {
  if (typeof connection === 'string') {
    if (/^postgres(ql)?:\/\//.test(connection)) return true
    if (/^rediss?:\/\//.test(connection)) return false
    // A `URL` has no own fields: as options it would lead to the Redis on this machine.
  } else if (typeof connection === 'object' && connection !== null && !(connection instanceof URL)) {
    const { connectionString, database } = connection as Record<string, unknown>
    return isPool(connection) || connectionString !== undefined || database !== undefined
  }
  throw new FST_BGT_INVALID_OPTION('connection', "'redis://…', 'postgres://…', options or a client", withheld(connection))
}

/** Whether a connection is a ready `pg.Pool`. */
export function isPool (connection: string | object): boolean {
  return typeof connection === 'object' && typeof (connection as { query?: unknown }).query === 'function'
}

export function isCluster (connection: string | object): boolean {
  return isClient(connection) && (connection as { isCluster?: boolean }).isCluster === true
}
