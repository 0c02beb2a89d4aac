import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import type { BackgroundTasksOptions } from '../index'
import { sqlite } from '../lib/backends/sqlite'
import { conformance, repeatable } from './support/conformance'
import { noSqlite, rawConnection } from './support/sqlite'

test('SQLite', { skip: noSqlite }, async t => {
  const folder = t.testdir({})
  const options = async () => {
    const file = join(folder, `${randomUUID()}.db`)
    const options = repeatable(() => ({ backend: sqlite({ file }) }))
    files.set(options, file)
    return options
  }
  const files = new WeakMap<object, string>()
  const begin = async (t: Test, options: BackgroundTasksOptions) => {
    const client = rawConnection(files.get(options) as string)
    t.teardown(() => client.close())
    client.exec('BEGIN IMMEDIATE')
    return { client, end: (how: string) => client.exec(how) }
  }
  conformance(t, { options, durable: true, begin })
})
