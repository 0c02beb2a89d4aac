import { test } from 'tap'
import { noSqlite } from '../support/sqlite'
import { workerFaults } from '../support/worker-faults'

test('workers that die, on SQLite', { skip: noSqlite }, async t => {
  await workerFaults(t, `sqlite:${t.testdir({})}`)
})
