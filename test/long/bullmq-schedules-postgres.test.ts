import { test } from 'tap'
import { bullmq } from '../../lib/backends/bullmq'
import { EACH_SECOND, newQueue, schedule, scheduleSuite, startWorker } from '../support/schedules'
import { noPostgres, postgres } from '../support/services'
import { until } from '../support/until'

test('schedules on Postgres', { skip: noPostgres }, async t => {
  scheduleSuite(t, (await postgres(t)).url)
})

test('Postgres refuses a run: that is logged, and tried again until it is stored', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const queue = newQueue()
  const one = await startWorker(t, bullmq({ connection: url, queue }))
  await one.keep([schedule('s', EACH_SECOND, { name: 'a\0b' })], ['task'])
  await until('the trouble is logged', () => one.log.some(({ msg }) => msg.endsWith('is in trouble')))
  await one.backend.pause()
  const two = await startWorker(t, bullmq({ connection: url, queue }))
  await two.keep([schedule('s', EACH_SECOND)])
  await until('it runs', () => two.ran.length > 0)
})
