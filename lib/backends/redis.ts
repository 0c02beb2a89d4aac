/* Connections to Redis, by ioredis, of the backends that use one. */

/** Whether a connection is a ready client of the user's: options have no method `duplicate`. */
export function isClient (connection: string | object): boolean {
  return typeof connection === 'object' && 'duplicate' in connection
}

/** Milliseconds before the next attempt to reach a server that is away: short at first, at most 2 s. */
export function retryStrategy (times: number): number {
  return Math.min(50 * 2 ** times, 2_000)
}
