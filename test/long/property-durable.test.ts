import { test } from 'tap'
import { assertLaws, onMemory, onSqlite } from '../support/durable-property'
import { noSqlite } from '../support/sqlite'

// As property-durable.test.ts, 10,000 programs: about two minutes of one quiet core.

const timeout = 1_800_000

test('random programs keep the laws on a store whose answers fail', { timeout }, t => assertLaws(t, onMemory, 8_000))

test('random programs keep the laws on SQLite', { timeout, skip: noSqlite }, t => assertLaws(t, onSqlite, 2_000))
