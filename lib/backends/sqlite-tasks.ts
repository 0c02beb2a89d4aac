import type { ListedTask, StoredTask, TaskInfo, TaskList } from './backend'
import type { Row, Statement } from './node-sqlite'
import type { Connection } from './sqlite-connection'

/** A task as the table has it, handed out to this process. */
export interface Claim {
  task: StoredTask
  /** Attempts that have ended. */
  attempts: number
  /** How often it has been handed out: who was handed it out before that has lost it. */
  delivery: number
}

/** What a worker takes with it. */
export interface Taken {
  claims: Claim[]
  /** Tasks whose worker has gone, which can be handed out again. */
  released: StoredTask[]
  /** Tasks with which too many workers have gone. */
  failed: StoredTask[]
}

/** What becomes of a task that has been handed out. */
export interface Settlement {
  state: 'pending' | 'completed' | 'failed' | 'cancelled'
  /** When it is to be handed out again. */
  due: number
  attempts: number
  result: string | null
  error: string | null
}

/** Settled tasks of one state that are not kept: this one, and all that have settled before it. */
export interface Surplus {
  state: SettledState
  settledAt: number
  rowid: number
}

type SettledState = 'completed' | 'failed' | 'cancelled'

/** How many rows one statement changes at most: it holds the thread. */
const CHANGED_AT_ONCE = 1_000

/** The same for those that it removes, which takes several times as long: they are all over the file. */
const REMOVED_AT_ONCE = 100

/**
 * Taken off the time at which a task was due, once it is: so they keep their order, and a clock that is set back makes
 * none of them wait again.
 */
const DUE = 1e15

/** When a task is due, as the table has it. All its times are whole numbers. */
export function dueIn (delay: number, now: number): number {
  return delay === 0 ? now - DUE : Math.ceil(now + delay)
}

/** What is done in the table, by statements that are prepared once. Those that write belong in a transaction. */
export class TaskTable {
  readonly #insert: Statement
  readonly #remove: Statement
  readonly #state: Statement
  readonly #holder: Statement
  readonly #info: Statement
  readonly #cancel: Statement
  readonly #next: Statement
  readonly #fail: Statement
  readonly #release: Statement
  readonly #markDue: Statement
  readonly #claim: Statement
  readonly #renew: Statement
  readonly #settle: Statement
  readonly #progress: Statement
  readonly #firstTooMany: Statement
  readonly #prune: Statement
  readonly #version: Statement
  readonly #list: Statement
  readonly #counts: Statement
  readonly #retry: Statement

  constructor (connection: Connection) {
    const prepare = (sql: string) => connection.prepare(sql)
    this.#insert = prepare("INSERT INTO tasks (id, task, state, due, dedupe) VALUES (?, ?, 'pending', ?, ?) ON CONFLICT DO NOTHING")
    this.#remove = prepare('DELETE FROM tasks WHERE id = ?')
    this.#state = prepare('SELECT state FROM tasks WHERE id = ?')
    this.#holder = prepare("SELECT id FROM tasks WHERE dedupe = ? AND dedupe IS NOT NULL AND state IN ('pending', 'running')")
    this.#info = prepare('SELECT task, state, attempts, progress, result, error FROM tasks WHERE id = ?')
    this.#cancel = prepare("UPDATE tasks SET state = 'cancelled', settled_at = ? WHERE id = ? AND state = 'pending'")
    // Those that this process has are given as a JSON list: it may have been held up itself, and not gone.
    const gone = "state = 'running' AND id NOT IN (SELECT value FROM json_each(?))"
    this.#next = prepare(`SELECT
      (SELECT MIN(due) FROM tasks WHERE state = 'pending') AS due,
      (SELECT MIN(lease_until) FROM tasks WHERE ${gone}) AS lease`)
    const release = 'crashes = crashes + 1, owner = NULL, lease_until = NULL'
    this.#fail = prepare(`UPDATE tasks SET state = 'failed', settled_at = ?, error = ?, ${release}
      WHERE ${gone} AND lease_until <= ? AND crashes >= ? RETURNING task`)
    this.#release = prepare(`UPDATE tasks SET state = 'pending', ${release} WHERE ${gone} AND lease_until <= ? RETURNING task`)
    this.#markDue = prepare(`UPDATE tasks SET due = due - ${DUE} WHERE rowid IN (
      SELECT rowid FROM tasks WHERE state = 'pending' AND due > 0 AND due <= ? ORDER BY due LIMIT ${CHANGED_AT_ONCE})`)
    this.#claim = prepare(`UPDATE tasks SET state = 'running', owner = ?, lease_until = ?, deliveries = deliveries + 1
      WHERE rowid IN (SELECT rowid FROM tasks WHERE state = 'pending' AND due <= ? ORDER BY due, rowid LIMIT ?)
      RETURNING rowid AS place, due, task, attempts, deliveries`)
    this.#renew = prepare(`UPDATE tasks SET lease_until = ?
      WHERE state = 'running' AND owner = ? AND id IN (SELECT value FROM json_each(?)) RETURNING id, deliveries`)
    const mine = "id = ? AND deliveries = ? AND state = 'running'"
    this.#settle = prepare(`UPDATE tasks SET state = ?, due = ?, attempts = ?, result = ?, error = ?, settled_at = ?, owner = NULL, lease_until = NULL
      WHERE ${mine}`)
    this.#progress = prepare(`UPDATE tasks SET progress = ? WHERE ${mine}`)
    this.#firstTooMany = prepare(`SELECT settled_at, rowid FROM tasks WHERE state = ? AND settled_at IS NOT NULL
      ORDER BY settled_at DESC, rowid DESC LIMIT 1 OFFSET ?`)
    this.#prune = prepare(`DELETE FROM tasks WHERE rowid IN (
      SELECT rowid FROM tasks WHERE state = ? AND settled_at <= ? AND (settled_at, rowid) <= (?, ?) LIMIT ${REMOVED_AT_ONCE})`)
    this.#version = prepare('PRAGMA data_version')
    const some = (which: string, order: string) => `SELECT * FROM (SELECT task, state, due, attempts, settled_at, progress, error FROM tasks WHERE ${which} ORDER BY ${order} LIMIT ?)`
    this.#list = prepare([
      some("state = 'running'", 'lease_until'),
      some("state = 'pending' AND due <= ?", 'due'), some("state = 'pending' AND due > ?", 'due'),
      some("state = 'failed' AND settled_at IS NOT NULL", 'settled_at DESC')
    ].join(' UNION ALL '))
    this.#counts = prepare(`SELECT
      (SELECT COUNT(*) FROM tasks WHERE state = 'running') AS running,
      (SELECT COUNT(*) FROM tasks WHERE state = 'pending' AND due <= ?) AS waiting,
      (SELECT COUNT(*) FROM tasks WHERE state = 'pending' AND due > ?) AS delayed,
      (SELECT COUNT(*) FROM tasks WHERE state = 'failed' AND settled_at IS NOT NULL) AS failed`)
    this.#retry = prepare(`UPDATE OR IGNORE tasks SET state = 'pending', due = ?, attempts = 0, crashes = 0, settled_at = NULL, progress = NULL, error = NULL
      WHERE id = ? AND state = 'failed'`)
  }

  /** Returns the id under which the task is stored. */
  insert ({ id, dedupe }: StoredTask, text: string, due: number): string {
    while (this.#insert.run(id, text, due, dedupe).changes !== 1) {
      const same = this.#state.get(id)
      if (same === undefined) return this.#holder.get(dedupe)!.id as string
      // Stored already, by a write that nobody has waited for; if it was then called off, it counts as new.
      if (same.state !== 'cancelled') break
      this.#remove.run(id)
    }
    return id
  }

  find (id: string): TaskInfo | null {
    const row = this.#info.get(id)
    if (row === undefined) return null
    const { state, attempts, progress, result, error } = row as { state: TaskInfo['state'], attempts: number, progress: string | null, result: string | null, error: string | null }
    return {
      id,
      name: taskOf(row).label,
      state,
      attempts: state === 'running' ? attempts + 1 : attempts,
      progress: parse(progress),
      result: parse(result),
      // While another attempt is to come, that of the last one is only listed.
      error: state === 'failed' && error !== null ? errorOf(error) : undefined
    }
  }

  /** Calls off a task that has not been handed out. */
  cancel (id: string, now: number): boolean {
    return this.#cancel.run(now, id).changes === 1
  }

  list (now: number, limit: number): TaskList {
    return {
      counts: this.#counts.get(now, now) as unknown as TaskList['counts'],
      tasks: this.#list.all(limit, now, limit, now, limit, limit).map(row => listedTask(row, now))
    }
  }

  /** Has a failed task run again; not one whose dedupe id has been taken meanwhile. */
  retry (id: string, now: number): boolean {
    return this.#retry.run(dueIn(0, now), id).changes === 1
  }

  /** When there will be something for a worker: a task is due, the lease of one that is not held here ends. */
  next (held: string): { due: number, lease: number } {
    const { due, lease } = this.#next.get(held)!
    return { due: (due ?? Infinity) as number, lease: (lease ?? Infinity) as number }
  }

  /** Hands out tasks, first those whose worker has gone. */
  take ({ owner, now, leaseUntil, limit, held, maxCrashes, error }: {
    owner: string, now: number, leaseUntil: number, limit: number, held: string, maxCrashes: number, error: string
  }): Taken {
    const failed = this.#fail.all(now, error, held, now, maxCrashes).map(taskOf)
    const released = this.#release.all(held, now).map(taskOf)
    this.#markDue.run(now)
    const rows = this.#claim.all(owner, leaseUntil, now, limit)
    // They come in no order.
    rows.sort((a, b) => (a.due as number) - (b.due as number) || (a.place as number) - (b.place as number))
    const claims = rows.map(row => ({ task: taskOf(row), attempts: row.attempts as number, delivery: row.deliveries as number }))
    return { claims, released, failed }
  }

  /** Renews the leases of what an owner holds. Returns the deliveries that it still has, by the tasks' ids. */
  renew (owner: string, held: string, leaseUntil: number): Map<string, number> {
    return new Map(this.#renew.all(leaseUntil, owner, held).map(({ id, deliveries }) => [id as string, deliveries as number]))
  }

  settle (id: string, delivery: number, now: number, { state, due, attempts, result, error }: Settlement): void {
    this.#settle.run(state, due, attempts, result, error, state === 'pending' ? null : now, id, delivery)
  }

  progress (id: string, delivery: number, value: string | null): void {
    this.#progress.run(value, id, delivery)
  }

  /** Which settled tasks are too old or too many. Reads one entry of an index for each that is kept. */
  surplus (state: SettledState, before: number, count: number): Surplus {
    const row = this.#firstTooMany.get(state, count) as { settled_at: number, rowid: number } | undefined
    if (row === undefined || row.settled_at <= before) return { state, settledAt: before, rowid: Number.MAX_SAFE_INTEGER }
    return { state, settledAt: row.settled_at, rowid: row.rowid }
  }

  /**
   * Removes some of them.
   * @returns whether there may be more
   */
  prune ({ state, settledAt, rowid }: Surplus): boolean {
    return this.#prune.run(state, settledAt, settledAt, rowid).changes === REMOVED_AT_ONCE
  }

  /** Another number each time that another connection has written. */
  version (): number {
    return this.#version.get()!.data_version as number
  }
}

function listedTask (row: Row, now: number): ListedTask {
  const { state: stored, due, attempts: ended, settled_at: settledAt, progress, error } = row as {
    state: 'running' | 'pending' | 'failed', due: number, attempts: number, settled_at: number | null, progress: string | null, error: string | null
  }
  const { id, name, label, payload, requestId, attempts } = taskOf(row)
  const later = due > now
  const state = stored === 'pending' ? later ? ended === 0 ? 'delayed' : 'retrying' : 'waiting' : stored
  return {
    id,
    name,
    label,
    payload,
    requestId,
    attempts,
    state,
    // When one has been handed out, the table does not tell.
    since: stored === 'failed' ? settledAt : state === 'waiting' ? due < 0 ? due + DUE : due : null,
    due: later && stored === 'pending' ? due : null,
    attempt: stored === 'running' ? ended + 1 : ended,
    progress: parse(progress),
    error: error === null ? undefined : errorOf(error)
  }
}

function taskOf ({ task }: Row): StoredTask {
  return JSON.parse(task as string)
}

function errorOf (text: string): Error {
  const { message, stack } = JSON.parse(text) as { message: string, stack?: string }
  const error = new Error(message)
  if (stack !== undefined) error.stack = stack
  return error
}

function parse (text: string | null): unknown {
  return text === null ? undefined : JSON.parse(text)
}
