import { test } from 'tap'
import { noRedis, redis } from '../support/services'
import { workerFaults } from '../support/worker-faults'

test('workers that die, on Redis', { skip: noRedis }, async t => {
  await workerFaults(t, (await redis(t)).url)
})
