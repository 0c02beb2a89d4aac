import Redis from 'ioredis'
import { test } from 'tap'
import { until } from '../support/until'
import { account, Faults } from '../support/faults'
import { restartFaults } from '../support/restart-faults'
import { noOwnRedis, ownRedis } from '../support/services'

// A Redis that writes each command to the disk before it answers, as one that must not lose tasks does.

test('Redis is killed under load, and started again: what was acknowledged runs, what was not was told so', { skip: noOwnRedis }, async t => {
  await restartFaults(t, await ownRedis(t), 'SIGKILL')
})

test('a Redis that is full refuses: 503, and again 202 when it has room', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const faults = new Faults(t, server.url)
  const web = await faults.start(false)
  t.equal((await web.send('POST', '/record/1')).status, 202)
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
