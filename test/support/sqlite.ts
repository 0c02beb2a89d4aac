import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import type { Test } from 'tap'

/** Why a test that needs `node:sqlite` cannot run, or `false`. */
export const noSqlite: string | false = process.getBuiltinModule?.('node:sqlite') !== undefined
  ? false
  : `there is no node:sqlite in Node ${process.version}: take 22.13 or later`

/** A path in a folder that goes with the test, for which there is no file yet. */
export function newFile (t: Test): string {
  return join(t.testdir({}), `${randomUUID()}.db`)
}
