import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { bullmq } from '../../lib/backends/bullmq'
import { Proxy } from '../support/proxy'
import { noOwnPostgres, ownPostgres } from '../support/services'
import { newConnections, openConnections } from '../support/silence'

const queue = () => `silence-${randomUUID()}`

test('Postgres: storing works again without help once a connection has said nothing for too long', { skip: noOwnPostgres }, async t => {
  const { port } = await ownPostgres(t)
  const proxy = await Proxy.start(t, port)
  await openConnections(t, proxy, bullmq({ connection: `postgres://postgres@127.0.0.1:${proxy.port}/postgres`, queue: queue() }))
})

test('Postgres: requests have their 503 in time while new connections say nothing either', { skip: noOwnPostgres }, async t => {
  const { port } = await ownPostgres(t)
  const proxy = await Proxy.start(t, port)
  const connection = { host: '127.0.0.1', port: proxy.port, user: 'postgres', database: 'postgres' }
  await newConnections(t, proxy, bullmq({ connection, queue: queue() }))
})
