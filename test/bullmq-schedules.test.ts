import { test } from 'tap'
import { bullmq } from '../lib/backends/bullmq'
import { EACH_SECOND, newQueue, schedule, scheduleSuite, startWorker } from './support/schedules'
import { noOwnRedis, noRedis, ownRedis, redis } from './support/services'
import { until } from './support/until'

test('schedules on Redis', { skip: noRedis }, async t => {
  scheduleSuite(t, (await redis(t)).url)
})

test('Redis is away: the schedule goes on when it is back', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  const one = await startWorker(t, bullmq({ connection: server.url, queue: newQueue() }))
  await one.keep([schedule('s', EACH_SECOND)])
  await until('it runs', () => one.ran.length > 0)
  await server.stop('SIGKILL')
  await until('the trouble is logged', () => one.log.some(({ msg }) => msg.endsWith('is in trouble')))
  const count = one.ran.length
  await server.start()
  await until('it runs again', () => one.ran.length > count)
})
