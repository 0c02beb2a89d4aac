import { setTimeout as sleep } from 'node:timers/promises'
import { isBusy, isFromSqlite, loadSqlite, rollBack, type Database, type Statement } from './node-sqlite'
import { checkHeader, checkPages, makeDurable, prepareSchema } from './sqlite-file'

/** Something that waits to be written. */
interface Write {
  readonly run: () => unknown
  readonly resolve: (value: any) => void
  readonly reject: (error: unknown) => void
  /** When it has waited for other processes long enough, in ms of `performance.now()`; `null` before it has met one. */
  deadline: number | null
}

/** Milliseconds between two transactions at most, where there is something to write. */
const MAX_REST = 5

/**
 * A connection to the file. What is to be written in one turn of the event loop is written in one transaction, because
 * the disk is what takes time. While another process writes, this one waits without holding the thread: SQLite's own
 * way of waiting would.
 */
export class Connection {
  readonly #database: Database
  readonly #busyTimeout: number
  readonly #begin: Statement
  readonly #commit: Statement
  #writes: Write[] = []
  #writing = false
  /** In ms of `performance.now()`. */
  #restUntil = 0
  #closed = false

  private constructor (database: Database, busyTimeout: number) {
    this.#database = database
    this.#busyTimeout = busyTimeout
    this.#begin = database.prepare('BEGIN IMMEDIATE')
    this.#commit = database.prepare('COMMIT')
  }

  /**
   * Opens the file, and makes it if there is none.
   * @param busyTimeout how long, in ms, another process is waited for
   */
  static async open (backend: string, file: string, busyTimeout: number): Promise<Connection> {
    const sqlite = loadSqlite(backend)
    try {
      if (file !== ':memory:') await whileBusy(busyTimeout, () => { if (checkHeader(sqlite, file)) checkPages(sqlite, file) })
      return await Connection.#prepare(new sqlite.DatabaseSync(file), file, busyTimeout)
    } catch (error) {
      // SQLite's own errors do not say of which file they are.
      throw isFromSqlite(error) ? new Error(`${file} cannot be used: ${error.message}`, { cause: error }) : error
    }
  }

  static async #prepare (database: Database, file: string, busyTimeout: number): Promise<Connection> {
    try {
      await whileBusy(busyTimeout, () => prepareSchema(database, file))
      await whileBusy(busyTimeout, () => makeDurable(database))
      return new Connection(database, busyTimeout)
    } catch (error) {
      database.close()
      throw error
    }
  }

  prepare (sql: string): Statement {
    return this.#database.prepare(sql)
  }

  /** Reads at once; later only where another process is just putting the file in order. */
  read<T> (query: () => T): Promise<T> {
    return whileBusy(this.#busyTimeout, () => {
      this.#assertOpen()
      return query()
    })
  }

  /**
   * Writes in a transaction, and resolves when that is on the disk.
   * @param run may be called again, if the transaction has failed: it must change nothing but the database
   */
  write<T> (run: () => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#assertOpen()
      this.#writes.push({ run, resolve, reject, deadline: null })
      if (!this.#writing) this.#write()
    })
  }

  #assertOpen (): void {
    if (this.#closed) throw new Error('the file has been closed')
  }

  async #write (): Promise<void> {
    this.#writing = true
    while (this.#writes.length !== 0) {
      // What else comes in the meantime is written together with it.
      await this.#turn()
      const waiting = this.#tryAll()
      if (waiting.length === 0) continue
      this.#writes.unshift(...waiting)
      await sleep(busyDelay())
    }
    this.#writing = false
  }

  /** The thread is for others for as long as it was held, and at least for one turn of the event loop. */
  #turn (): Promise<void> {
    const rest = Math.min(this.#restUntil - performance.now(), MAX_REST)
    return rest >= 1 ? sleep(rest) : new Promise(resolve => { setImmediate(resolve) })
  }

  /** Returns those that another process has kept from being written, and that may still wait. */
  #tryAll (): Write[] {
    const writes = this.#writes
    this.#writes = []
    const begin = performance.now()
    const waiting = this.#try(writes)
    const now = performance.now()
    this.#restUntil = now + now - begin
    return waiting.filter(write => {
      // Not from when it was asked for: this process may itself have held the thread since then.
      write.deadline ??= now + this.#busyTimeout
      if (now < write.deadline) return true
      write.reject(new Error(`another process has held the file for ${this.#busyTimeout} ms`))
      return false
    })
  }

  #try (writes: Write[]): Write[] {
    try {
      const results = this.#transaction(writes)
      writes.forEach(({ resolve }, index) => resolve(results[index]))
    } catch (error) {
      if (isBusy(error)) return writes
      // What cannot be written must not take the others with it.
      if (writes.length > 1) return writes.flatMap(write => this.#try([write]))
      for (const { reject } of writes) reject(error)
    }
    return []
  }

  #transaction (writes: Write[]): unknown[] {
    this.#begin.run()
    try {
      const results = writes.map(({ run }) => run())
      this.#commit.run()
      return results
    } catch (error) {
      rollBack(this.#database)
      throw error
    }
  }

  /** Writes what still waits, if that is possible at once. */
  close (): void {
    if (this.#closed) return
    this.#closed = true
    for (const { reject } of this.#tryAll()) reject(new Error('the file was closed while another process held it'))
    this.#database.close()
  }
}

/** Milliseconds, not always the same ones, so that two processes do not keep meeting. */
function busyDelay (): number {
  return 1 + Math.random() * 4
}

/** Does something again and again while another process keeps it from being done, for so many ms. */
async function whileBusy<T> (ms: number, action: () => T): Promise<T> {
  const deadline = performance.now() + ms
  for (;;) {
    try {
      return action()
    } catch (error) {
      if (!isBusy(error) || performance.now() >= deadline) throw error
    }
    await sleep(busyDelay())
  }
}
