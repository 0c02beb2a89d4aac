import { Socket } from 'node:net'
import { FST_BGT_INVALID_OPTION } from '../errors'
import { received } from '../received'

/* What the option `connection` of the BullMQ backend is, and the connections that are made of it. */

/** Milliseconds between two looks for a server that is away: soon at first, and never so rarely as BullMQ's 20 s. */
const retryStrategy = (times: number) => Math.min(50 * 2 ** times, 2_000)

export function isPostgres (connection: unknown): boolean {
  if (typeof connection === 'string') {
    if (/^postgres(ql)?:\/\//.test(connection)) return true
    if (/^rediss?:\/\//.test(connection)) return false
  } else if (typeof connection === 'object' && connection !== null) {
    const { connectionString, database } = connection as Record<string, unknown>
    return isPool(connection) || connectionString !== undefined || database !== undefined
  }
  throw new FST_BGT_INVALID_OPTION('connection', "'redis://…', 'postgres://…', options or a client", received(connection))
}

/** What is used of a `pg.Pool`. */
export interface Pool {
  connect (): Promise<{ release (): void }>
}

export function isPool (connection: string | object): connection is Pool {
  return typeof connection === 'object' && typeof (connection as { query?: unknown }).query === 'function'
}

/** Whether it is a ready client of Redis. */
export function isClient (connection: string | object): boolean {
  return typeof connection === 'object' && 'duplicate' in connection
}

export function isCluster (connection: string | object): boolean {
  return isClient(connection) && (connection as { isCluster?: boolean }).isCluster === true
}

/** A client that is ready is used as it is for adding. A worker, which must wait for Redis, has clients of its own. */
export function redisConnection (connection: string | object, overrides: object): object {
  if (typeof connection === 'string') return { url: connection, retryStrategy, ...overrides }
  if (isClient(connection)) return connection
  return { retryStrategy, ...connection, ...overrides }
}

/** What makes a second client like a ready one. A cluster is copied by BullMQ, where it has to be. */
export function optionsOf (connection: string | object): string | object {
  return isClient(connection) && !isCluster(connection) ? (connection as { options: object }).options : connection
}

/** The connections to Postgres that are a backend's own: all but those of a ready pool. */
export class PostgresConnections {
  readonly #sockets = new Set<Socket>()

  /** What BullMQ connects with. */
  options (connection: string | object, schema: string | undefined): object {
    if (isPool(connection)) return connection
    const options = typeof connection === 'string' ? { connectionString: connection } : connection
    return { migrate: true, stream: () => this.#socket(), ...options, ...(schema === undefined ? {} : { schema }) }
  }

  #socket (): Socket {
    const socket = new Socket()
    this.#sockets.add(socket)
    return socket.once('close', () => this.#sockets.delete(socket))
  }

  /** The driver ends a connection by waiting for the server to end it. One that does not answer has to be cut off. */
  destroy (): void {
    for (const socket of this.#sockets) socket.destroy()
  }
}
