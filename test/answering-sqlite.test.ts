import { test } from 'tap'
import { sqlite } from '../lib/backends/sqlite'
import { answering } from './support/answering'
import { newFile, noSqlite } from './support/sqlite'

// The table of answering.test.ts, where a file keeps the tasks.

test('SQLite', { skip: noSqlite }, t => {
  answering(t, { options: () => ({ backend: sqlite({ file: newFile(t) }) }) })
  t.end()
})
