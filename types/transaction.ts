/** The result of a statement: its rows, alone or as `rows`. */
type Rows = { readonly rows: readonly unknown[] } | readonly unknown[]

/**
 * A connection of the user's with an open transaction.
 *
 * - PostgreSQL: anything with `query(text, values)`, as the clients of `pg` and PGlite have, or a function that runs a statement in the
 *   transaction. There are two statements: one without values, and one with one, a text, for the parameter `$1`.
 * - SQLite: a `DatabaseSync` of `node:sqlite`, or a connection of better-sqlite3, to the backend's file.
 */
export type TransactionClient =
  | { query (text: string, values: any[]): PromiseLike<Rows> }
  | ((text: string, values: any[]) => PromiseLike<Rows>)
  | { exec (sql: string): unknown, prepare (sql: string): { run (...values: any[]): unknown, get (...values: any[]): unknown } }
