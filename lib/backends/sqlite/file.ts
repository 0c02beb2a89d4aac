import { closeSync, existsSync, openSync, statSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { type Database, isDamaged, isNoDatabase, isReadonly, type NodeSqlite, rollBack, type Value } from './node-sqlite'

/*
 * Opening of the file. One that is not this backend's, that is damaged, or that a newer version has written, is refused before anything is
 * written to it.
 */

/** 'FBGT', the `application_id` in the header of each file: a file of another application has another one. */
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

/** Columns that a file of the same version may lack: older releases do not know them, and need not. */
const LATER_COLUMNS = {
  added_at: 'INTEGER',
  started_at: 'INTEGER', // of the last attempt
  errors: 'TEXT'         // a JSON list of the last attempts' errors
}

/** A table that a file of the same version may lack, likewise. */
const SCHEDULES = `
  CREATE TABLE IF NOT EXISTS schedules (
    id TEXT PRIMARY KEY NOT NULL,
    schedule TEXT NOT NULL,               -- the rule, and the template of the runs: JSON
    tasks TEXT NOT NULL,                  -- the names of the tasks of the application that wrote it: a JSON list
    next INTEGER,                         -- due times, in milliseconds since 1970
    last INTEGER,
    last_id TEXT,                         -- the task of the last run that was stored
    skipped INTEGER NOT NULL DEFAULT 0
  ) STRICT;
`

/** Creates a file that is not there, for its owner alone. SQLite gives the files beside it the same mode. */
export function makePrivate (file: string): void {
  try {
    // Exclusively ('wx'): closing a new file takes no lock away. See `checkHeader`.
    closeSync(openSync(file, 'wx', 0o600))
  } catch {
    // The file is there, or SQLite will say why it cannot be created.
  }
}

/**
 * Refuses a file of another application, without a trace in it. Only SQLite may open the file: closing it by other means takes all locks of
 * the process away (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
 * @returns whether the file has anything in it
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
    // After a crash, or while another connection is about to write the header.
    if (!isDamaged(error) && !isReadonly(error)) throw error
  } finally {
    database.close()
  }
  return true
}

/** Opens a file so that no other is created beside it; returns `null` if there is none. */
function openUntouched (sqlite: NodeSqlite, file: string): Database | null {
  try {
    return new sqlite.DatabaseSync(`${pathToFileURL(file)}?immutable=1`, { readOnly: true })
  } catch {
    if (!existsSync(file)) return null
    // Before Node 22.15 a URL is a path.
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

/** Refuses a file whose pages are damaged. The connection is read-only, so that closing it does not change the file. */
export function checkPages (sqlite: NodeSqlite, file: string): void {
  const database = new sqlite.DatabaseSync(file, { readOnly: true })
  const damaged = (what: string, cause?: unknown) => new Error(`${file} is damaged: ${what.replaceAll('\n', ' ')}; it was left untouched`, { cause })
  try {
    // The header may be older than the log of a process that crashed.
    checkMarks(database, file)
    const { quick_check: found } = database.prepare('PRAGMA quick_check(1)').get()!
    if (found !== 'ok') throw damaged(String(found))
  } catch (error) {
    // The journal of a crash: only a connection that may write can roll it back.
    if (isReadonly(error)) return
    throw isDamaged(error) ? damaged((error as Error).message, error) : error
  } finally {
    database.close()
  }
}

/** Creates the tables in a new file, and what a file of an older release lacks. Throws where the file cannot be written. */
export function prepareSchema (database: Database, file: string): void {
  database.exec('BEGIN IMMEDIATE')
  try {
    // Another process may have created it meanwhile.
    if (database.prepare('SELECT 1 FROM sqlite_schema').get() === undefined) database.exec(SCHEMA)
    checkMarks(database, file)
    addColumns(database)
    database.exec(SCHEDULES)
    // A read-only file refuses a transaction only when it writes.
    database.exec('DELETE FROM tasks WHERE FALSE; COMMIT')
  } catch (error) {
    rollBack(database)
    throw error
  }
}

function addColumns (database: Database): void {
  const known = new Set(database.prepare("SELECT name FROM pragma_table_info('tasks')").all().map(({ name }) => name))
  for (const [name, type] of Object.entries(LATER_COLUMNS)) {
    if (!known.has(name)) database.exec(`ALTER TABLE tasks ADD COLUMN ${name} ${type}`)
  }
}

/** Bytes to which SQLite truncates a larger write-ahead log: twice the size that it has without long reads. */
const WAL_LIMIT_BYTES = 8_388_608

/** Each transaction is on the disk before it counts; readers do not wait for writers. */
export function makeDurable (database: Database): void {
  database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = ${WAL_LIMIT_BYTES}`)
}
