import { existsSync, statSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { isDamaged, isNoDatabase, isReadonly, rollBack, type Database, type NodeSqlite, type Value } from './node-sqlite'

/*
 * How a file is opened: a file that is not this backend's, that is damaged, or that a newer version has written, is
 * refused before anything is written to it.
 */

/** In the header of each of our files, so that no file of another application is taken for one: 'FBGT'. */
const APPLICATION_ID = 0x46424754
const SCHEMA_VERSION = 1

const SCHEMA = `
  CREATE TABLE tasks (
    id TEXT PRIMARY KEY NOT NULL,
    task TEXT NOT NULL,                   -- as it was added: JSON
    state TEXT NOT NULL,
    due INTEGER NOT NULL,                 -- all times are milliseconds since 1970
    dedupe TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,  -- that have ended
    crashes INTEGER NOT NULL DEFAULT 0,   -- workers that went away with it
    deliveries INTEGER NOT NULL DEFAULT 0, -- how often it was handed out
    owner TEXT,                           -- the worker that runs it
    lease_until INTEGER,                  -- when another worker may have it
    settled_at INTEGER,
    progress TEXT,
    result TEXT,
    error TEXT
  ) STRICT;
  CREATE INDEX tasks_due ON tasks (due) WHERE state = 'pending';
  CREATE INDEX tasks_lease ON tasks (lease_until) WHERE state = 'running';
  CREATE INDEX tasks_settled ON tasks (state, settled_at) WHERE settled_at IS NOT NULL;
  CREATE UNIQUE INDEX tasks_dedupe ON tasks (dedupe) WHERE dedupe IS NOT NULL AND state IN ('pending', 'running');
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`

/**
 * Refuses a file that is not ours, without a trace. What is ours has its marks in the header from the first moment on,
 * because it is made with a rollback journal. Only SQLite may open the file: whoever closes it takes all locks from it
 * that the process has, those of another application too, and SQLite alone knows of them.
 * @returns whether there is something in the file
 */
export function checkHeader (sqlite: NodeSqlite, file: string): boolean {
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true) throw new Error(`${file} is a folder`)
  const database = openUntouched(sqlite, file)
  if (database === null) return false
  try {
    if (pragma(database, 'page_count') === 0) return false
    checkMarks(database, file)
  } catch (error) {
    if (isNoDatabase(error)) throw new Error(`${file} is not a file of SQLite; it was left untouched`)
    // A crash may have left it so, and another connection may be about to write it.
    if (!isDamaged(error) && !isReadonly(error)) throw error
  } finally {
    database.close()
  }
  return true
}

/** Opens it so that not even a file is put beside it; returns `null` if there is none. */
function openUntouched (sqlite: NodeSqlite, file: string): Database | null {
  try {
    return new sqlite.DatabaseSync(`${pathToFileURL(file)}?immutable=1`, { readOnly: true })
  } catch {
    if (!existsSync(file)) return null
    // Before Node 22.15, a URL is taken for a path.
    return new sqlite.DatabaseSync(file, { readOnly: true })
  }
}

function checkMarks (database: Database, file: string): void {
  if (pragma(database, 'application_id') !== APPLICATION_ID) throw new Error(`${file} belongs to another application; it was left untouched`)
  const version = pragma(database, 'user_version') as number
  if (version > SCHEMA_VERSION) {
    throw new Error(`${file} has schema version ${version}, and this version of fastify-background-tasks knows ${SCHEMA_VERSION}; it was left untouched`)
  }
}

function pragma (database: Database, name: string): Value {
  return database.prepare(`PRAGMA ${name}`).get()![name]!
}

/** Refuses a file whose pages are damaged. The connection cannot write, so that not even its end changes the file. */
export function checkPages (sqlite: NodeSqlite, file: string): void {
  const database = new sqlite.DatabaseSync(file, { readOnly: true })
  const damaged = (what: string, cause?: unknown) => new Error(`${file} is damaged: ${what.replaceAll('\n', ' ')}; it was left untouched`, { cause })
  try {
    // The header may be older than what a process has written that crashed.
    checkMarks(database, file)
    const { quick_check: found } = database.prepare('PRAGMA quick_check(1)').get()!
    if (found !== 'ok') throw damaged(String(found))
  } catch (error) {
    // The journal of a crash: only a connection that may write can undo what is half done.
    if (isReadonly(error)) return
    throw isDamaged(error) ? damaged((error as Error).message, error) : error
  } finally {
    database.close()
  }
}

/** Makes the table in a new file. Fails where the file cannot be written. */
export function prepareSchema (database: Database, file: string): void {
  database.exec('BEGIN IMMEDIATE')
  try {
    // Another process may have made it meanwhile.
    if (database.prepare('SELECT 1 FROM sqlite_schema').get() === undefined) database.exec(SCHEMA)
    checkMarks(database, file)
    // What begins where nothing may be written is not refused before it writes.
    database.exec('DELETE FROM tasks WHERE FALSE; COMMIT')
  } catch (error) {
    rollBack(database)
    throw error
  }
}

/** One write to the disk for each transaction, before it counts; readers do not wait for writers. */
export function makeDurable (database: Database): void {
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
}
