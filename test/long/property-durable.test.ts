import { test } from 'tap'
import { assertLaws, onMemory, onSqlite } from '../support/durable-property'
import { noSqlite } from '../support/sqlite'

// As test/property-durable.test.ts, with ten thousand programs.

const timeout = 1_200_000

test('random programs keep the laws on a store whose answers fail', { timeout }, t => assertLaws(t, onMemory, 8_000))

test('random programs keep the laws on SQLite', { timeout, skip: noSqlite }, t => assertLaws(t, onSqlite, 2_000))
