import { test } from 'tap'
import { redisConnection } from '../lib/backends/bullmq/redis/connection'

const OURS = { maxRetriesPerRequest: 1, enableOfflineQueue: false }

test('what a connection to Redis has to have it has, whatever its options say; the rest is as they say', async t => {
  for (const connection of [{ host: 'redis', maxRetriesPerRequest: 20, enableOfflineQueue: true, reconnectOnError: null }, 'redis://redis']) {
    const options = redisConnection(connection, 1_000, OURS) as Record<string, unknown>
    t.match(options, { ...OURS, ...(typeof connection === 'string' ? { url: connection } : { host: 'redis' }), socketTimeout: 1_000 })
    t.type(options.retryStrategy, 'function')
    t.type(options.reconnectOnError, 'function')
  }
  const retryStrategy = () => 5
  t.match(redisConnection({ retryStrategy, socketTimeout: 20 }, 1_000, OURS), { retryStrategy, socketTimeout: 20 })
})
