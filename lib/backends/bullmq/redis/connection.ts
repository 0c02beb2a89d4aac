import { isClient, retryStrategy } from '../../redis'
import { isCluster } from '../connection'

/* The connections to Redis that BullMQ is given. */

/**
 * A Redis that has become a replica refuses writes with the code `READONLY`: reconnect, to find the new primary, and send the command
 * again (2), as https://redis.github.io/ioredis/interfaces/CommonRedisOptions.html#reconnectOnError has it.
 */
const reconnectOnError = ({ message }: Error) => message.includes('READONLY') && 2

/** The options of ioredis that are read. */
interface RedisOptions { url?: string, reconnectOnError?: unknown, socketTimeout?: number }

/** A ready client, for adding, or options for a connection of BullMQ's own. */
export function redisConnection (connection: string | object, silenceMs: number, overrides: object): object {
  if (typeof connection !== 'string' && isClient(connection)) return connection
  const options: RedisOptions = typeof connection === 'string' ? { url: connection } : connection
  return {
    retryStrategy,
    ...options,
    // The options of a ready client have every field, some of them `null`.
    reconnectOnError: options.reconnectOnError ?? reconnectOnError,
    socketTimeout: options.socketTimeout ?? silenceMs,
    ...overrides
  }
}

/** Options for a second client like a ready one. A worker needs clients of its own; a cluster BullMQ copies itself. */
export function optionsOf (connection: string | object): string | object {
  return isClient(connection) && !isCluster(connection) ? (connection as { options: object }).options : connection
}
