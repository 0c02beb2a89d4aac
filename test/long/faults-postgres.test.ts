import { test } from 'tap'
import { restartFaults } from '../support/restart-faults'
import { noOwnPostgres, ownPostgres } from '../support/services'

test('Postgres is stopped under load, and started again: what was acknowledged runs, what was not was told so', { skip: noOwnPostgres }, async t => {
  await restartFaults(t, await ownPostgres(t), 'SIGTERM')
})
