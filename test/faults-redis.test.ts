import { test } from 'tap'
import { until } from './support/conformance'
import { account, Faults } from './support/faults'
import { noOwnRedis, ownRedis } from './support/services'

// A Redis that writes each command to the disk before it answers, as one that must not lose tasks does.

test('Redis is killed under load, and started again: what was acknowledged runs, what was not was told so', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const faults = new Faults(t, server.url)
  const [web] = await Promise.all([faults.start(false), faults.start({ concurrency: 5 })])
  const acknowledged = new Set<number>()
  const statuses = new Map<number, number>()
  let slowest = 0
  let next = 0
  let stop = false
  const clients = Array.from({ length: 8 }, async () => {
    while (!stop) { // eslint-disable-line no-unmodified-loop-condition
      const n = next++
      const begin = performance.now()
      const { status } = await web.send('POST', `/record/${n}`)
      slowest = Math.max(slowest, performance.now() - begin)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if (status === 202) acknowledged.add(n)
    }
  })
  await until('a load', () => acknowledged.size > 300)
  await server.stop('SIGKILL')
  await until('refusals', () => (statuses.get(503) ?? 0) > 50)
  await server.start()
  const before = acknowledged.size
  await until('it is back', () => acknowledged.size > before + 300)
  stop = true
  await Promise.all(clients)
  t.same([...statuses.keys()].sort(), [202, 503])
  t.comment(`${statuses.get(202)} times 202, ${statuses.get(503)} times 503, the slowest answer after ${Math.round(slowest)} ms`)
  t.ok(slowest < 6_000, 'storeTimeout is 2 s')
  await until('all have run', () => {
    const ran = faults.ran()
    return [...acknowledged].every(n => ran.has(n))
  })
  account(t, acknowledged, faults.ran())
  await faults.end()
})

test('a Redis that is full refuses: 503, and again 202 when it has room', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const faults = new Faults(t, server.url)
  const web = await faults.start(false)
  t.equal((await web.send('POST', '/record/1')).status, 202)
  const { Redis } = await import('ioredis')
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  await client.config('SET', 'maxmemory', '1')
  t.match(await web.send('POST', '/record/2'), { status: 503, body: { code: 'FST_BGT_STORE_FAILED', message: /OOM/ } })
  await client.config('SET', 'maxmemory', '0')
  t.equal((await web.send('POST', '/record/3')).status, 202)
})

test('10,000 acknowledged tasks, while workers are killed', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const faults = new Faults(t, server.url)
  const [web, first] = await Promise.all([faults.start(false), faults.start({ concurrency: 20 }), faults.start({ concurrency: 20 })])
  const acknowledged = new Set<number>()
  let next = 0
  const begin = performance.now()
  const clients = Array.from({ length: 64 }, async () => {
    while (next < 10_000) {
      const n = next++
      const { status } = await web.send('POST', `/record/${n}`)
      if (status === 202) acknowledged.add(n)
    }
  })
  await until('a part', () => acknowledged.size > 3_000)
  await first.stop('SIGKILL')
  await Promise.all([...clients, faults.start({ concurrency: 20 })])
  t.comment(`${acknowledged.size} acknowledged in ${Math.round(performance.now() - begin)} ms`)
  t.equal(acknowledged.size, 10_000)
  await until('all have run', () => faults.ran().size === 10_000)
  account(t, acknowledged, faults.ran())
  await faults.end()
})
