import { FST_BGT_INVALID_CLIENT, FST_BGT_NO_TRANSACTION } from '../../shared/errors'
import { received } from '../../shared/show'
import { firstColumn } from './insertion'
import type { Statement } from './node-sqlite'

/** A user's connection: the part that `node:sqlite` and better-sqlite3 have in common. */
export interface Client {
  exec (sql: string): unknown
  prepare (sql: string): Statement
}

const FILE = "SELECT file FROM pragma_database_list WHERE name = 'main'"

/** The path of a connection's file, as SQLite has resolved it; empty in memory. */
export function fileOf (client: Pick<Client, 'prepare'>): string {
  return firstColumn(client.prepare(FILE).get()) as string
}

/**
 * Returns a user's connection if it can store tasks in the file of this backend.
 * @param file the path that {@link fileOf} returns for the backend's own connection
 * @throws FST_BGT_INVALID_CLIENT, FST_BGT_NO_TRANSACTION
 */
export function checkClient (client: unknown, file: string): Client {
  const expected = 'a DatabaseSync of node:sqlite, or a connection of better-sqlite3'
  if (!isClient(client)) throw new FST_BGT_INVALID_CLIENT(expected, received(client))
  if (file === '') throw new FST_BGT_INVALID_CLIENT("one of the backend's file", "one beside tasks in ':memory:', which only the backend can open")
  const own = fileOf(client)
  if (own !== file) throw new FST_BGT_INVALID_CLIENT(`${expected} to ${file}`, own === '' ? 'one to a database in memory' : `one to ${own}`)
  if (!hasTransaction(client)) throw new FST_BGT_NO_TRANSACTION('begin one, with BEGIN IMMEDIATE for instance')
  return client
}

function isClient (client: unknown): client is Client {
  const { exec, prepare } = (client ?? {}) as Partial<Client>
  return typeof exec === 'function' && typeof prepare === 'function'
}

/** SQLite refuses a second transaction, without harm to the first. Not all versions of the drivers have a property for it. */
function hasTransaction (client: Client): boolean {
  try {
    client.exec('BEGIN')
  } catch {
    return true
  }
  client.exec('ROLLBACK')
  return false
}
