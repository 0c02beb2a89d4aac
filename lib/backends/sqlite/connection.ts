import { mapInSlices } from '../../shared/slices'
import { eventsTaken, nextTurn, now, sleep } from '../../shared/timers'
import { checkHeader, checkPages, makeDurable, makePrivate, prepareSchema } from './file'
import { type Database, isBusy, isFromSqlite, loadSqlite, rollBack, type Statement } from './node-sqlite'

/** A write that waits for its transaction. */
interface Write {
  readonly run: () => unknown
  readonly resolve: (value: any) => void
  readonly reject: (error: unknown) => void
  /** The end of its wait for other processes, in ms of `now()`; `null` before it met one. */
  deadline: number | null
}

/** Many rows for one transaction. */
interface LongWrite {
  readonly run: () => Promise<unknown>
  readonly resolve: (value: any) => void
  readonly reject: (error: unknown) => void
}

/** Milliseconds for which a transaction in slices holds the thread. Other processes wait for the file until its end. */
const SLICE_MS = 25

/** The longest rest between two transactions while something waits to be written: at least one {@link busyDelay}. */
const MAX_REST_MS = 5

/** The file is free for {@link MAX_REST_MS} at least this often, so that a process which waits for it gets it. */
const FREE_EVERY_MS = 200

/** Milliseconds for which the file counts as shared after a write of another process was met. */
const SHARED_MS = 60_000

/**
 * A connection to the file. All writes of one turn of the event loop are one transaction, because the disk takes the time. While another
 * process writes, this one waits without holding the thread, unlike SQLite's own wait. Opened at the start, closed with the backend.
 */
export class Connection {
  readonly #database: Database
  readonly #busyTimeout: number
  readonly #begin: Statement
  readonly #commit: Statement
  #writes: Write[] = []
  #longWrites: LongWrite[] = []
  /** Whether a transaction is open while the event loop turns. */
  #inTransaction = false
  #writing = false
  /** The begin and the end of the last transaction, in ms of `now()`. */
  #began = 0
  #ended = 0
  /** The end of the last time that the file was free for {@link MAX_REST_MS}, in ms of `now()`. */
  #freeUntil = 0
  /** Events that the event loop had taken before the last transaction. */
  #events = 0
  /** The time until which the file counts as shared, in ms of `now()`. */
  #sharedUntil = 0
  #closed = false

  private constructor (database: Database, busyTimeout: number) {
    this.#database = database
    this.#busyTimeout = busyTimeout
    this.#begin = database.prepare('BEGIN IMMEDIATE')
    this.#commit = database.prepare('COMMIT')
  }

  /**
   * Opens the file, and creates it if there is none.
   * @param busyTimeout milliseconds for which to wait for another process
   */
  static async open (backend: string, file: string, busyTimeout: number): Promise<Connection> {
    const sqlite = loadSqlite(backend)
    try {
      if (file !== ':memory:') {
        makePrivate(file)
        await whileBusy(busyTimeout, () => { if (checkHeader(sqlite, file)) checkPages(sqlite, file) })
      }
      return await Connection.#prepare(new sqlite.DatabaseSync(file), file, busyTimeout)
    } catch (error) {
      // SQLite's errors do not name the file.
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

  /** Reads at once, unless another process is just recovering the file. */
  read<T> (query: () => T): Promise<T> {
    return whileBusy(this.#busyTimeout, () => {
      this.#assertOpen()
      return query()
    })
  }

  /**
   * Writes in a transaction, and resolves when it is on the disk.
   * @param run called again if the transaction failed: it must change nothing but the database
   */
  write<T> (run: () => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#assertOpen()
      this.#writes.push({ run, resolve, reject, deadline: null })
      if (!this.#writing) this.#write()
    })
  }

  /**
   * Writes one row for each item, in one transaction that lets the event loop turn, and resolves with the results when it is on the
   * disk. Until then nothing else is written, and reads of this connection may see some of the rows.
   */
  writeMany<Item, Result> (items: readonly Item[], each: (item: Item) => Result): Promise<Result[]> {
    return new Promise((resolve, reject) => {
      this.#assertOpen()
      this.#longWrites.push({ run: () => mapInSlices(items, each, SLICE_MS), resolve, reject })
      if (!this.#writing) this.#write()
    })
  }

  #assertOpen (): void {
    if (this.#closed) throw new Error('the file has been closed')
  }

  async #write (): Promise<void> {
    this.#writing = true
    while (this.#writes.length !== 0 || this.#longWrites.length !== 0) {
      // Writes that come until then join the transaction.
      await this.#turn()
      const long = this.#longWrites.shift()
      if (long !== undefined) await this.#writeLong(long)
      if (this.#writes.length === 0) continue
      const waiting = this.#tryAll()
      if (waiting.length === 0) continue
      this.#writes.unshift(...waiting)
      await sleep(busyDelay())
    }
    this.#writing = false
  }

  /** Lets the event loop turn once, and then rests for as long as others need the thread or the file. */
  async #turn (): Promise<void> {
    if (now() - this.#ended >= MAX_REST_MS) this.#freeUntil = now()
    await nextTurn()
    const rest = this.#restMs()
    if (rest >= 1) await sleep(rest)
    if (rest === MAX_REST_MS) this.#freeUntil = now()
  }

  /**
   * The rest in ms: as long as the last transaction took if events came since it began, or if another process writes, which would
   * hardly find the file free; else none.
   */
  #restMs (): number {
    const events = eventsTaken()
    const others = events !== this.#events || now() < this.#sharedUntil
    this.#events = events
    if (now() - this.#freeUntil >= FREE_EVERY_MS) return MAX_REST_MS
    return others ? Math.min(this.#ended + this.#ended - this.#began - now(), MAX_REST_MS) : 0
  }

  async #writeLong ({ run, resolve, reject }: LongWrite): Promise<void> {
    try {
      await whileBusy(this.#busyTimeout, () => {
        this.#assertOpen()
        this.#begin.run()
      })
      this.#inTransaction = true
      const results = await run()
      this.#commit.run()
      resolve(results)
    } catch (error) {
      this.#undo()
      reject(isBusy(error) ? new Error(`another process has held the file for ${this.#busyTimeout} ms`) : error)
    }
    this.#inTransaction = false
  }

  #undo (): void {
    if (this.#inTransaction && !this.#closed) rollBack(this.#database)
  }

  /** Returns the writes that another process prevented and that may still wait. */
  #tryAll (): Write[] {
    const writes = this.#writes
    this.#writes = []
    this.#began = now()
    const waiting = this.#try(writes)
    const end = this.#ended = now()
    return waiting.filter(write => {
      // From now on: this process itself may have held the thread since the write was asked for.
      write.deadline ??= end + this.#busyTimeout
      if (end < write.deadline) return true
      write.reject(new Error(`another process has held the file for ${this.#busyTimeout} ms`))
      return false
    })
  }

  #try (writes: Write[]): Write[] {
    try {
      const results = this.#transaction(writes)
      writes.forEach(({ resolve }, index) => resolve(results[index]))
    } catch (error) {
      if (isBusy(error)) {
        this.#sharedUntil = now() + SHARED_MS
        return writes
      }
      // A write that fails must not fail the others.
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

  /** Writes all that waits, if that is possible at once. */
  close (): void {
    if (this.#closed) return
    this.#undo()
    this.#closed = true
    for (const { reject } of [...this.#longWrites.splice(0), ...this.#tryAll()]) reject(new Error('the file was closed while another process held it'))
    this.#database.close()
  }
}

/** Milliseconds before the next try. They vary, so that two processes do not meet again and again. */
function busyDelay (): number {
  return 1 + Math.random() * 4
}

/** Repeats an action while another process prevents it, for so many ms. */
async function whileBusy<T> (ms: number, action: () => T): Promise<T> {
  const deadline = now() + ms
  for (;;) {
    try {
      return action()
    } catch (error) {
      if (!isBusy(error) || now() >= deadline) throw error
    }
    await sleep(busyDelay())
  }
}
