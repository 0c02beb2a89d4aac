import { test } from 'tap'
import { assertLaws, onMemory, onSqlite } from './support/durable-property'
import { noSqlite } from './support/sqlite'

// Random programs of several processes with one store, against the laws of support/durable-model.ts.

const timeout = 300_000

test('random programs keep the laws on a store whose answers fail', { timeout }, t => assertLaws(t, onMemory, 200))

test('random programs keep the laws on SQLite', { timeout, skip: noSqlite }, t => assertLaws(t, onSqlite, 100))
