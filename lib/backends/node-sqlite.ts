import { FST_BGT_NODE_VERSION } from '../errors'

/* What is used of `node:sqlite`. It is declared here, because the types of the oldest supported Node do not have it. */

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

/** What SQLite's result codes mean; the higher bits of a code only say more. */
const BUSY = 5
const READONLY = 8
const CORRUPT = 11
const NOTADB = 26

export function isFromSqlite (error: unknown): error is Error {
  return resultCode(error) !== 0
}

/** Another connection has the file just now. */
export function isBusy (error: unknown): boolean {
  return resultCode(error) === BUSY
}

/** The connection may not write, and would have to. */
export function isReadonly (error: unknown): boolean {
  return resultCode(error) === READONLY
}

/** What is in the file does not fit together. */
export function isDamaged (error: unknown): boolean {
  return resultCode(error) === CORRUPT
}

export function isNoDatabase (error: unknown): boolean {
  return resultCode(error) === NOTADB
}

/** Undoes a transaction that has failed. */
export function rollBack (database: Database): void {
  try {
    database.exec('ROLLBACK')
  } catch {
    // Where the disk is full, SQLite has done so itself.
  }
}

function resultCode (error: unknown): number {
  return ((error as { errcode?: number }).errcode ?? 0) & 0xFF
}
