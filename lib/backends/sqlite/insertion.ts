import type { StoredTask } from '../../../types/backend'
import type { Statement } from './node-sqlite'

/** The statements that store a task, for one connection: this backend's, or a user's, which may return rows as arrays. */
export class Insertion {
  readonly #insert: Statement
  readonly #remove: Statement
  readonly #state: Statement
  readonly #holder: Statement

  constructor (prepare: (sql: string) => Statement) {
    this.#insert = prepare("INSERT INTO main.tasks (id, task, state, due, dedupe, added_at) VALUES (?, ?, 'pending', ?, ?, ?) ON CONFLICT DO NOTHING")
    this.#remove = prepare('DELETE FROM main.tasks WHERE id = ?')
    this.#state = prepare('SELECT state FROM main.tasks WHERE id = ?')
    this.#holder = prepare("SELECT id FROM main.tasks WHERE dedupe = ? AND dedupe IS NOT NULL AND state IN ('pending', 'running')")
  }

  /** Stores a task. Returns its id, or that of the task that has its dedupe id. */
  insert ({ id, dedupe }: StoredTask, text: string, due: number, now: number): string {
    while (Number(this.#insert.run(id, text, due, dedupe, now).changes) !== 1) {
      const state = firstColumn(this.#state.get(id))
      if (state === undefined) return firstColumn(this.#holder.get(dedupe)) as string
      // Already stored by an earlier write of the same request, which ran out of time. One that was cancelled since counts as new.
      if (state !== 'cancelled') break
      this.#remove.run(id)
    }
    return id
  }
}

/** The value of a row with one column; `undefined` without a row. */
export function firstColumn (row: object | undefined): unknown {
  return row === undefined ? undefined : Object.values(row)[0]
}
