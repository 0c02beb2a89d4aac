import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { test } from 'tap'
import { sqlite } from '../lib/backends/sqlite'
import { conformance, repeatable } from './support/conformance'
import { noSqlite } from './support/sqlite'

test('SQLite', { skip: noSqlite }, async t => {
  const folder = t.testdir({})
  const options = async () => {
    const file = join(folder, `${randomUUID()}.db`)
    return repeatable(() => ({ backend: sqlite({ file }) }))
  }
  conformance(t, { options, durable: true })
})
