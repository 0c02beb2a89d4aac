import type { FastifyBaseLogger } from 'fastify'
import { test } from 'tap'
import { sqlite } from '../lib/backends/sqlite'
import type { Database, NodeSqlite } from '../lib/backends/sqlite/node-sqlite'
import { newFile, noSqlite, rawConnection } from './support/sqlite'
import type { ListName } from '../types/backend'

// A list of 100,000 tasks is read by an index: to sort them all would hold the thread.

test('no list, and no search for what is too old, sorts the tasks', { skip: noSqlite }, async t => {
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite') as unknown as { DatabaseSync: NodeSqlite['DatabaseSync'] & { prototype: Database } }
  const { prepare } = DatabaseSync.prototype
  const prepared: string[] = []
  DatabaseSync.prototype.prepare = function (this: Database, sql: string) {
    prepared.push(sql)
    return prepare.call(this, sql)
  }
  t.teardown(() => { DatabaseSync.prototype.prepare = prepare })
  const file = newFile(t)
  const backend = sqlite({ file })
  t.teardown(() => backend.close(100))
  const log = {} as FastifyBaseLogger
  await backend.start(log, () => log, 5_000, new Map())
  // The list of running tasks is short.
  for (const list of ['waiting', 'delayed', 'failed', 'completed'] as ListName[]) {
    for (const newestFirst of [true, false]) t.same(await backend.page!(list, 0, 100, newestFirst), [])
  }
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const ordered = prepared.filter(sql => sql.startsWith('SELECT') && sql.includes('ORDER BY'))
  t.ok(ordered.length >= 10, String(ordered.length))
  for (const sql of ordered) {
    const plan = other.prepare(`EXPLAIN QUERY PLAN ${sql}`).all(...Array.from(sql.matchAll(/\?/g), () => 1)).map(({ detail }) => detail).join('\n')
    t.match(plan, /USING (?:COVERING )?INDEX tasks_/, sql)
    t.notMatch(plan, 'TEMP B-TREE', sql)
  }
})
