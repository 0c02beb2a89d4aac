import { test } from 'tap'
import { noPostgres, postgres } from '../support/services'
import { workerFaults } from '../support/worker-faults'

test('workers that die, on Postgres', { skip: noPostgres }, async t => {
  await workerFaults(t, (await postgres(t)).url)
})
