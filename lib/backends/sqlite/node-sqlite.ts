import { FST_BGT_NODE_VERSION } from '../../shared/errors'

/* The used part of `node:sqlite`, declared here because the types of Node 20 do not have it. */

export type Value = null | number | string
export type Row = Record<string, Value>

export interface Statement {
  run (...values: Value[]): { changes: number | bigint }
  get (...values: Value[]): Row | undefined
  all (...values: Value[]): Row[]
}

export interface Database {
  exec (sql: string): void
  prepare (sql: string): Statement
  close (): void
}

export interface NodeSqlite {
  DatabaseSync: new (file: string, options?: { readOnly?: boolean }) => Database
}

/**
 * Loads `node:sqlite`, which no older Node than 22.13 has without a flag.
 * @throws FST_BGT_NODE_VERSION
 */
export function loadSqlite (backend: string): NodeSqlite {
  const sqlite = process.getBuiltinModule?.('node:sqlite')
  if (sqlite === undefined) throw new FST_BGT_NODE_VERSION(backend, '22.13', process.version)
  return sqlite as NodeSqlite
}

/** SQLite's primary result codes, the lower 8 bits of a code: https://www.sqlite.org/rescode.html. */
const BUSY = 5
const READONLY = 8
const CORRUPT = 11
const NOTADB = 26

export function isFromSqlite (error: unknown): error is Error {
  return resultCode(error) !== 0
}

/** Whether another connection holds the file. */
export function isBusy (error: unknown): boolean {
  return resultCode(error) === BUSY
}

/** Whether the connection may not write. */
export function isReadonly (error: unknown): boolean {
  return resultCode(error) === READONLY
}

/** Whether the file is damaged. */
export function isDamaged (error: unknown): boolean {
  return resultCode(error) === CORRUPT
}

export function isNoDatabase (error: unknown): boolean {
  return resultCode(error) === NOTADB
}

/** Rolls a failed transaction back. */
export function rollBack (database: Database): void {
  try {
    database.exec('ROLLBACK')
  } catch {
    // Where the disk is full, SQLite has already rolled back.
  }
}

function resultCode (error: unknown): number {
  return ((error as { errcode?: number }).errcode ?? 0) & 0xFF
}
