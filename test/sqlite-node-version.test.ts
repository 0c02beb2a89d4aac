import { test } from 'tap'
import { sqlite } from '../lib/backends/sqlite'
import { createApp } from './support/server'
import { noSqlite } from './support/sqlite'

test('a Node without node:sqlite: an error that says which is needed', async t => {
  if (noSqlite === false) {
    // As an older one answers.
    const { getBuiltinModule } = process
    t.teardown(() => { process.getBuiltinModule = getBuiltinModule })
    process.getBuiltinModule = (() => undefined) as unknown as typeof getBuiltinModule
  } else {
    t.comment(noSqlite)
  }
  const { app } = await createApp(t, { backend: sqlite({ file: ':memory:' }) })
  await t.rejects(async () => { await app.ready() }, {
    code: 'FST_BGT_NODE_VERSION',
    message: `The backend 'SQLite' needs Node 22.13 or later, received ${process.version}`
  })
})
