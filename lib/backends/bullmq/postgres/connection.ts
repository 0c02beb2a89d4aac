import { Socket } from 'node:net'
import type { Client, Pool } from 'pg'
import type { PoolSource } from './pool'

/* The connections to Postgres that BullMQ is given, and that are this package's own. */

/** Milliseconds of silence after which the connection for notifications is probed by TCP. */
const KEEP_ALIVE_MS = 10_000

/** Milliseconds for a connection to be made, and for a statement to be answered. */
export interface Timeouts { readonly connectMs: number, readonly queryMs: number }

/** Sockets that are open, so that those which do not answer can be destroyed. */
export class Sockets {
  readonly #open = new Set<Socket>()

  make (): Socket {
    const socket = new Socket()
    this.#open.add(socket)
    return socket.once('close', () => this.#open.delete(socket))
  }

  /** Cuts all connections; new ones are made when they are needed. The driver's own end waits for the server to answer. */
  destroy (): void {
    for (const socket of this.#open) socket.destroy()
  }
}

/**
 * A pool, and clients beside it, whose search path is the schema: BullMQ does the same with a pool that it makes itself.
 * @param schema quoted
 */
export function ownConnections (
  pg: { Pool: typeof Pool, Client: typeof Client }, connection: string | object, schema: string, { connectMs, queryMs }: Timeouts, sockets: Sockets
): Pick<PoolSource, 'pool' | 'isOwn' | 'newClient'> {
  const given: { options?: string } = typeof connection === 'string' ? { connectionString: connection } as object : connection
  const searchPath = `-c search_path=${schema}`
  const options = {
    connectionTimeoutMillis: connectMs,
    query_timeout: queryMs,
    stream: () => sockets.make(),
    ...given,
    options: given.options === undefined ? searchPath : `${given.options} ${searchPath}`
  }
  return {
    pool: new pg.Pool(options) as unknown as PoolSource['pool'],
    isOwn: true,
    newClient: () => new pg.Client({ ...options, keepAlive: true, keepAliveInitialDelayMillis: KEEP_ALIVE_MS })
  }
}
