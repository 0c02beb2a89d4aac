import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Database, NodeSqlite } from '../../lib/backends/sqlite/node-sqlite'

/** Why a test that needs `node:sqlite` cannot run, or `false`. */
export const noSqlite: string | false = process.getBuiltinModule?.('node:sqlite') !== undefined
  ? false
  : `there is no node:sqlite in Node ${process.version}: take 22.13 or later`

/** A path in a folder that goes with the test, for which there is no file yet. */
export function newFile (t: Test): string {
  // A second call of `testdir` would empty it.
  const folder = folders.get(t) ?? t.testdir({})
  folders.set(t, folder)
  return join(folder, `${randomUUID()}.db`)
}

const folders = new WeakMap<Test, string>()

/** A connection beside those of the package, as another process has one. */
export function rawConnection (file: string): Database {
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite') as unknown as NodeSqlite
  return new DatabaseSync(file)
}
