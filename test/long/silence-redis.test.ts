import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { bullmq } from '../../lib/backends/bullmq'
import { Proxy } from '../support/proxy'
import { noRedis, redis } from '../support/services'
import { newConnections, openConnections } from '../support/silence'

const queue = () => `silence-${randomUUID()}`
const portOf = ({ url }: { url: string }) => Number(new URL(url).port)

test('Redis: storing works again without help once a connection has said nothing for too long', { skip: noRedis }, async t => {
  const proxy = await Proxy.start(t, portOf(await redis(t)))
  await openConnections(t, proxy, bullmq({ connection: `redis://127.0.0.1:${proxy.port}`, queue: queue() }))
})

test('Redis: requests have their 503 in time while new connections say nothing either', { skip: noRedis }, async t => {
  const proxy = await Proxy.start(t, portOf(await redis(t)))
  await newConnections(t, proxy, bullmq({ connection: { host: '127.0.0.1', port: proxy.port }, queue: queue() }))
})
