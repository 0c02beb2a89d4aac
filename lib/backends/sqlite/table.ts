import type { ListedTask, ListName, StoredTask, TaskInfo, TaskList, TaskRecord } from '../../../types/backend'
import { setCode } from '../error-code'
import type { Intake } from '../intake'
import { flawOf, shownTask, unusable } from '../stored-task'
import type { Connection } from './connection'
import { Insertion } from './insertion'
import type { Row, Statement } from './node-sqlite'

/** A task that is handed out to this process. */
export interface Claim {
  task: StoredTask
  /** Attempts that have ended. */
  attempts: number
  /** Workers that went away while they had the task. */
  crashes: number
  /** How often the task was handed out. A worker with a lower number has lost it. */
  delivery: number
}

/** A task for a log line, as far as it can be read. */
export type Told = Pick<StoredTask, 'id' | 'label' | 'requestId'>

/** The tasks that a worker takes in one transaction. */
export interface Taken {
  claims: Claim[]
  /** Tasks that have a flaw, and have failed for it. */
  unusable: Array<{ task: Told, reason: string }>
}

/** Tasks whose worker has gone. */
export interface Gone {
  /** Tasks that can be handed out again. */
  released: Told[]
  /** Tasks that have failed because too many workers went away with them. */
  failed: Told[]
}

/** The end of a delivery. */
export interface Settlement {
  state: 'pending' | 'completed' | 'failed' | 'cancelled'
  /** The time at which the task is due again. */
  due: number
  attempts: number
  result: string | null
  error: string | null
}

/** The last settled task of one state that is not kept; all that settled before it are not kept either. */
export interface Surplus {
  state: SettledState
  settledAt: number
  rowid: number
}

type SettledState = 'completed' | 'failed' | 'cancelled'

/** The most errors of one task that are kept. */
const KEPT_ERRORS = 20

/** The most rows that one statement changes: it holds the thread. */
const CHANGED_AT_ONCE = 1_000

/** The most rows that one statement removes: several times as slow, as they are all over the file. */
const REMOVED_AT_ONCE = 100

/**
 * Milliseconds that are subtracted from the due time of a task once it is due: tasks keep their order, and none waits again when the
 * clock is set back.
 */
const DUE_MS = 1e15

/** The due time of a task, in whole ms, as all times of the table. */
export function dueIn (delay: number, now: number): number {
  return delay === 0 ? now - DUE_MS : Math.ceil(now + delay)
}

/** The table of tasks, and its statements, each prepared once. Call methods that write inside a transaction. Made with the connection. */
export class TaskTable {
  readonly #insertion: Insertion
  readonly #info: Statement
  readonly #cancel: Statement
  readonly #next: Statement
  readonly #fail: Statement
  readonly #release: Statement
  readonly #markDue: Statement
  readonly #later: Statement
  readonly #due: Statement
  readonly #refuse: Statement
  readonly #claim: Statement
  readonly #renew: Statement
  readonly #settle: Statement
  readonly #noteError: Statement
  readonly #progress: Statement
  readonly #firstTooMany: Statement
  readonly #prune: Statement
  readonly #version: Statement
  readonly #list: Statement
  readonly #counts: Statement
  readonly #retry: Statement
  readonly #read: Statement
  readonly #discard: Statement
  /** The statements of {@link page}, by list and order, each prepared at its first use. */
  readonly #pages = new Map<string, Statement>()
  readonly #prepare: (sql: string) => Statement

  constructor (connection: Connection) {
    const prepare = this.#prepare = (sql: string) => connection.prepare(sql)
    this.#insertion = new Insertion(prepare)
    this.#info = prepare(`SELECT task, state, ${whole('attempts')}, progress, result, error FROM tasks WHERE id = ?`)
    this.#cancel = prepare("UPDATE tasks SET state = 'cancelled', settled_at = ? WHERE id = ? AND state = 'pending'")
    // Tasks of this process, as a JSON list: its own leases may have ended because its thread was held.
    const gone = "state = 'running' AND id NOT IN (SELECT value FROM json_each(?))"
    this.#next = prepare(`SELECT
      (SELECT CAST(MIN(due) AS REAL) FROM tasks WHERE state = 'pending') AS due,
      (SELECT CAST(MIN(lease_until) AS REAL) FROM tasks WHERE ${gone}) AS lease`)
    const release = 'crashes = crashes + 1, owner = NULL, lease_until = NULL'
    this.#fail = prepare(`UPDATE tasks SET state = 'failed', settled_at = ?, error = ?, ${release}
      WHERE ${gone} AND lease_until <= ? AND crashes >= ? RETURNING id, task`)
    this.#release = prepare(`UPDATE tasks SET state = 'pending', ${release} WHERE ${gone} AND lease_until <= ? RETURNING id, task`)
    this.#markDue = prepare(`UPDATE tasks SET due = due - ${DUE_MS} WHERE rowid IN (
      SELECT rowid FROM tasks WHERE state = 'pending' AND due > 0 AND due <= ? ORDER BY due LIMIT ${CHANGED_AT_ONCE})`)
    this.#later = prepare("SELECT CAST(MIN(due) AS REAL) AS due FROM tasks WHERE state = 'pending' AND due > ?")
    this.#due = prepare(`SELECT id, task, ${whole('attempts')}, ${whole('crashes')}, ${whole('deliveries')} FROM tasks
      WHERE state = 'pending' AND due <= ? ORDER BY due, rowid LIMIT ?`)
    this.#refuse = prepare("UPDATE tasks SET state = 'failed', settled_at = ?, error = ? WHERE id = ?")
    this.#claim = prepare("UPDATE tasks SET state = 'running', owner = ?, lease_until = ?, deliveries = ?, started_at = ? WHERE id = ?")
    this.#renew = prepare(`UPDATE tasks SET lease_until = ?
      WHERE state = 'running' AND owner = ? AND id IN (SELECT value FROM json_each(?)) RETURNING id, deliveries`)
    const mine = "id = ? AND deliveries = ? AND state = 'running'"
    this.#settle = prepare(`UPDATE tasks SET state = ?, due = ?, attempts = ?, result = ?, error = ?, settled_at = ?, owner = NULL, lease_until = NULL
      WHERE ${mine}`)
    const errors = "json_insert(COALESCE(errors, '[]'), '$[#]', json(?))"
    this.#noteError = prepare(`UPDATE tasks SET errors = CASE WHEN json_array_length(errors) >= ${KEPT_ERRORS} THEN json_remove(${errors}, '$[0]') ELSE ${errors} END
      WHERE ${mine}`)
    this.#progress = prepare(`UPDATE tasks SET progress = ? WHERE ${mine}`)
    this.#firstTooMany = prepare(`SELECT CAST(settled_at AS REAL) AS settled_at, rowid FROM tasks WHERE state = ? AND settled_at IS NOT NULL
      ORDER BY tasks.settled_at DESC, rowid DESC LIMIT 1 OFFSET ?`)
    this.#prune = prepare(`DELETE FROM tasks WHERE rowid IN (
      SELECT rowid FROM tasks WHERE state = ? AND settled_at <= ? AND (settled_at, rowid) <= (?, ?) LIMIT ${REMOVED_AT_ONCE})`)
    this.#version = prepare('PRAGMA data_version')
    const some = (which: string, order: string) => `SELECT * FROM (SELECT ${LISTED} FROM tasks WHERE ${which} ORDER BY ${order} LIMIT ?)`
    this.#list = prepare([
      some("state = 'running'", 'lease_until'),
      some("state = 'pending' AND due <= ?", 'tasks.due'), some("state = 'pending' AND due > ?", 'tasks.due'),
      some("state = 'failed' AND settled_at IS NOT NULL", 'tasks.settled_at DESC')
    ].join(' UNION ALL '))
    this.#counts = prepare(`SELECT
      (SELECT COUNT(*) FROM tasks WHERE state = 'running') AS running,
      (SELECT COUNT(*) FROM tasks WHERE state = 'pending' AND due <= ?) AS waiting,
      (SELECT COUNT(*) FROM tasks WHERE state = 'pending' AND due > ?) AS delayed,
      (SELECT COUNT(*) FROM tasks WHERE state = 'failed' AND settled_at IS NOT NULL) AS failed,
      (SELECT COUNT(*) FROM tasks WHERE state = 'completed' AND settled_at IS NOT NULL) AS completed`)
    this.#retry = prepare(`UPDATE OR IGNORE tasks SET state = 'pending', due = ?, attempts = 0, crashes = 0, settled_at = NULL, progress = NULL, error = NULL, errors = NULL, started_at = NULL
      WHERE id = ? AND state = 'failed'`)
    this.#read = prepare(`SELECT ${LISTED}, CAST(added_at AS REAL) AS added_at, errors, result FROM tasks WHERE id = ?`)
    this.#discard = prepare("DELETE FROM tasks WHERE id = ? AND state = 'failed'")
  }

  /** Stores a task. Returns its id, or that of the task that has its dedupe id. */
  insert (task: StoredTask, text: string, due: number, now: number): string {
    return this.#insertion.insert(task, text, due, now)
  }

  find (id: string): TaskInfo | null {
    const row = this.#info.get(id)
    if (row === undefined) return null
    const { state, attempts, progress, result, error } = row as { state: TaskInfo['state'], attempts: number, progress: string | null, result: string | null, error: string | null }
    return {
      id,
      name: shownTask(id, parse(row.task as string)).label,
      state,
      attempts: state === 'running' ? attempts + 1 : attempts,
      progress: parse(progress),
      result: parse(result),
      // The error is kept for the lists while another attempt is to come.
      error: state === 'failed' && error !== null ? errorOf(error) : undefined
    }
  }

  /** Cancels a task that is not handed out. */
  cancel (id: string, now: number): boolean {
    return this.#cancel.run(now, id).changes === 1
  }

  list (now: number, limit: number): TaskList {
    return {
      counts: this.#counts.get(now, now) as unknown as TaskList['counts'],
      tasks: this.#list.all(limit, now, limit, now, limit, limit).map(row => listedTask(row, now))
    }
  }

  page (list: ListName, now: number, offset: number, limit: number, newestFirst: boolean): ListedTask[] {
    const { which, order } = LISTS[list]
    const key = `${list} ${newestFirst}`
    let statement = this.#pages.get(key)
    if (statement === undefined) {
      const direction = newestFirst ? 'DESC' : 'ASC'
      statement = this.#prepare(`SELECT ${LISTED} FROM tasks WHERE ${which} ORDER BY ${order} ${direction}, rowid ${direction} LIMIT ? OFFSET ?`)
      this.#pages.set(key, statement)
    }
    const values = which.includes('?') ? [now, limit, offset] : [limit, offset]
    return statement.all(...values).map(row => listedTask(row, now))
  }

  read (id: string, now: number): TaskRecord | null {
    const row = this.#read.get(id)
    return row === undefined ? null : taskRecord(row, now)
  }

  /** Removes a failed task for good. */
  discard (id: string): boolean {
    return this.#discard.run(id).changes === 1
  }

  /** Makes a failed task due again, unless another one has its dedupe id. */
  retry (id: string, now: number): boolean {
    return this.#retry.run(dueIn(0, now), id).changes === 1
  }

  /** The next time at which a worker can have a task: one is due, or the lease of one that is not held here ends. */
  next (held: string): { due: number, lease: number } {
    const { due, lease } = this.#next.get(held)!
    return { due: (due ?? Infinity) as number, lease: (lease ?? Infinity) as number }
  }

  /** The next due time in the future. */
  later (now: number): number {
    return (this.#later.get(now)!.due ?? Infinity) as number
  }

  /** Takes back tasks from workers whose leases have ended. */
  takeFromGone ({ now, held, maxCrashes, error }: { now: number, held: string, maxCrashes: number, error: string }): Gone {
    return {
      failed: this.#fail.all(now, error, held, now, maxCrashes).map(told),
      released: this.#release.all(held, now).map(told)
    }
  }

  /**
   * Hands out tasks.
   * @param intake filled with the tasks that are taken
   * @param look the most due tasks that are read
   */
  take ({ owner, now, leaseUntil, intake, look }: { owner: string, now: number, leaseUntil: number, intake: Intake, look: number }): Taken {
    const taken: Taken = { claims: [], unusable: [] }
    this.#markDue.run(now)
    for (const row of this.#due.all(now, look)) {
      if (intake.places <= 0) break
      const id = row.id as string
      const task = parse(row.task as string) as StoredTask
      const flaw = flawOf(id, task)
      if (flaw !== null) {
        const reason = unusable(flaw)
        this.#refuse.run(now, JSON.stringify({ message: reason }), id)
        taken.unusable.push({ task: told(row), reason })
        continue
      }
      const crashes = row.crashes as number
      if (!intake.canBegin({ name: task.name, crashes })) {
        // A task that must run alone waits for those that run here. Tasks behind it must not overtake it, or it would wait for ever.
        if (crashes > 0) break
        continue
      }
      intake.take({ name: task.name, crashes })
      const delivery = row.deliveries as number + 1
      this.#claim.run(owner, leaseUntil, delivery, now, id)
      taken.claims.push({ task, attempts: row.attempts as number, crashes, delivery })
    }
    return taken
  }

  /** Renews an owner's leases. Returns its delivery numbers, by the tasks' ids. */
  renew (owner: string, held: string, leaseUntil: number): Map<string, number> {
    return new Map(this.#renew.all(leaseUntil, owner, held).map(({ id, deliveries }) => [id as string, deliveries as number]))
  }

  settle (id: string, delivery: number, now: number, { state, due, attempts, result, error }: Settlement): void {
    if (error !== null) this.#noteError.run(error, error, id, delivery)
    this.#settle.run(state, due, attempts, result, error, state === 'pending' ? null : now, id, delivery)
  }

  progress (id: string, delivery: number, value: string | null): void {
    this.#progress.run(value, id, delivery)
  }

  /** Finds settled tasks that are too old or too many. Reads one entry of an index for each task that is kept. */
  surplus (state: SettledState, before: number, count: number): Surplus {
    const row = this.#firstTooMany.get(state, count) as { settled_at: number, rowid: number } | undefined
    if (row === undefined || row.settled_at <= before) return { state, settledAt: before, rowid: Number.MAX_SAFE_INTEGER }
    return { state, settledAt: row.settled_at, rowid: row.rowid }
  }

  /**
   * Removes some settled tasks.
   * @returns whether there may be more
   */
  prune ({ state, settledAt, rowid }: Surplus): boolean {
    return this.#prune.run(state, settledAt, settledAt, rowid).changes === REMOVED_AT_ONCE
  }

  /** A number that changes with each write of another connection. */
  version (): number {
    return this.#version.get()!.data_version as number
  }
}

/** The columns of {@link listedTask}. An order by one of them names the table: by the alias, all rows would be sorted, without the index. */
const LISTED = `id, task, state, CAST(due AS REAL) AS due, ${whole('attempts')}, CAST(started_at AS REAL) AS started_at, CAST(settled_at AS REAL) AS settled_at, progress, error`

/** The lists. Each has the order of an index, except `running`, which is short. */
const LISTS: Record<ListName, { which: string, order: string }> = {
  running: { which: "state = 'running'", order: 'tasks.started_at' },
  waiting: { which: "state = 'pending' AND due <= ?", order: 'tasks.due' },
  delayed: { which: "state = 'pending' AND due > ?", order: 'tasks.due' },
  failed: { which: "state = 'failed' AND settled_at IS NOT NULL", order: 'tasks.settled_at' },
  completed: { which: "state = 'completed' AND settled_at IS NOT NULL", order: 'tasks.settled_at' }
}

/** A count as a number: another program may have written a larger integer than JavaScript has. */
function whole (column: string): string {
  return `MIN(${column}, ${2 ** 52}) AS ${column}`
}

function told ({ id, task }: Row): Told {
  return shownTask(id as string, parse(task as string))
}

function listedTask (row: Row, now: number): ListedTask {
  const { id, state: stored, due, attempts: ended, started_at: startedAt, settled_at: settledAt, progress, error } = row as {
    id: string, state: 'running' | 'pending' | 'failed' | 'completed' | 'cancelled', due: number, attempts: number, started_at: number | null, settled_at: number | null, progress: string | null, error: string | null
  }
  const later = due > now
  const state = stored === 'pending' ? later ? ended === 0 ? 'delayed' : 'retrying' : 'waiting' : stored
  return {
    ...shownTask(id, parse(row.task as string)),
    state,
    since: { running: startedAt, waiting: due < 0 ? due + DUE_MS : due, delayed: null, retrying: null, failed: settledAt, completed: settledAt, cancelled: settledAt }[state],
    due: later && stored === 'pending' ? due : null,
    attempt: stored === 'running' ? ended + 1 : ended,
    progress: parse(progress),
    error: error === null ? undefined : errorOf(error)
  }
}

function taskRecord (row: Row, now: number): TaskRecord {
  const { added_at: added, started_at: started, settled_at: ended, errors, error, result } = row as {
    added_at: number | null, started_at: number | null, settled_at: number | null, errors: string | null, error: string | null, result: string | null
  }
  const list = parse(errors)
  const thrown = Array.isArray(list) ? list.map(item => JSON.stringify(item)) : []
  // Too many workers went away: no attempt threw an error.
  if (row.state === 'failed' && error !== null && thrown.at(-1) !== error) thrown.push(error)
  return { ...listedTask(row, now), added, started, ended, errors: thrown.map(errorOf), result: parse(result) }
}

function errorOf (text: string): Error {
  const { message, stack, code } = (parse(text) ?? {}) as { message?: unknown, stack?: unknown, code?: unknown }
  const error = new Error(typeof message === 'string' ? message : text)
  if (typeof stack === 'string') error.stack = stack
  setCode(error, code)
  return error
}

/** The value of JSON; `undefined` for `null` and for any other text, which another program may have written. */
export function parse (text: string | null): unknown {
  if (text === null) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
