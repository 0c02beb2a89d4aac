import { closeSync, openSync, readSync } from 'node:fs'
import { isReadonly, type Database, type NodeSqlite } from './node-sqlite'

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
 * Refuses a file that is not ours. It reads the header by itself: SQLite would put files of its own beside another
 * application's. Ours has its marks there from the first moment on, because it is made with a rollback journal.
 * @returns whether there is something in the file
 */
export function checkHeader (file: string): boolean {
  const header = readHeader(file)
  if (header.length === 0) return false
  if (header.toString('latin1', 0, 16) !== 'SQLite format 3\0') throw new Error(`${file} is not a file of SQLite; it was left untouched`)
  if (header.readUInt32BE(68) !== APPLICATION_ID) throw new Error(`${file} belongs to another application; it was left untouched`)
  checkVersion(file, header.readUInt32BE(60))
  return true
}

function readHeader (file: string): Buffer {
  let descriptor: number
  try {
    descriptor = openSync(file, 'r')
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return Buffer.alloc(0)
    throw error
  }
  try {
    const header = Buffer.alloc(100)
    // A shorter one is filled up with zeros, and none of ours.
    return readSync(descriptor, header) === 0 ? Buffer.alloc(0) : header
  } finally {
    closeSync(descriptor)
  }
}

function checkVersion (file: string, version: number): void {
  if (version > SCHEMA_VERSION) {
    throw new Error(`${file} has schema version ${version}, and this version of fastify-background-tasks knows ${SCHEMA_VERSION}; it was left untouched`)
  }
}

/** Refuses a file whose pages are damaged. The connection cannot write, so that not even its end changes the file. */
export function checkPages (sqlite: NodeSqlite, file: string): void {
  const database = new sqlite.DatabaseSync(file, { readOnly: true })
  try {
    const { quick_check: found } = database.prepare('PRAGMA quick_check(1)').get()!
    if (found !== 'ok') throw new Error(String(found))
  } catch (cause) {
    // The journal of a crash: only a connection that may write can undo what is half done.
    if (isReadonly(cause)) return
    const { errcode, message } = cause as { errcode?: number, message: string }
    // It is all right, but another connection has it.
    if (errcode !== undefined && !DAMAGED.has(errcode & 0xFF)) throw cause
    throw new Error(`${file} is damaged: ${message.replaceAll('\n', ' ')}; it was left untouched`, { cause })
  } finally {
    database.close()
  }
}

/** SQLITE_CORRUPT, SQLITE_NOTADB. */
const DAMAGED = new Set([11, 26])

/** Makes the table in a new file. */
export function prepareSchema (database: Database, file: string): void {
  database.exec('BEGIN IMMEDIATE')
  try {
    // Another process may have made it meanwhile.
    if (database.prepare('PRAGMA application_id').get()!.application_id === 0) database.exec(SCHEMA)
    checkVersion(file, database.prepare('PRAGMA user_version').get()!.user_version as number)
    database.exec('COMMIT')
  } catch (error) {
    database.exec('ROLLBACK')
    throw error
  }
}

/** One write to the disk for each transaction, before it counts; readers do not wait for writers. */
export function makeDurable (database: Database): void {
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
}
