import type { TaskState } from '../../types/task'
import { propagation } from '../observe/propagation'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { sleep } from '../shared/timers'
import { PENDING, STORED } from '../task/states'
import type { Task } from '../task/task'
import { StoredRemotely, toStored } from './hand-over'
import type { Store } from './store'

/** The longest time between two questions whether a transaction has been committed. */
const MAX_COMMIT_INTERVAL_MS = 1_000

/**
 * Stores an accepted task in the transaction that is open on a connection of the user's. The task settles here, as `stored`, or as `dropped`
 * where the store has refused it or another task has its dedupe id.
 * @returns a promise where the client is asynchronous
 * @throws the error of the store, as a rejection where a promise is returned
 */
export function storeInTransaction (engine: Engine, store: Store, client: unknown, task: Task, line: Line): undefined | Promise<void> {
  let answer!: () => void
  const answered = new Promise<void>(resolve => { answer = resolve })
  engine.ledger.move(task, PENDING)
  line.storing = task
  task.extra.remote = new InTransaction(store, task, line.requestId, answered)
  const stored = (id: string): undefined => {
    if (id === task.ownId) engine.settle(task, line, STORED)
    else engine.drop(task, line, `its dedupe id is taken by task ${id}`)
    answer()
  }
  const refused = (error: unknown): never => {
    propagation()?.refused(task, error)
    engine.drop(task, line, 'it could not be stored in the transaction')
    answer()
    throw error
  }
  let id: string | Promise<string>
  try {
    id = store.addInTransaction(client, toStored(task, line))
  } catch (error) {
    return refused(error)
  }
  return typeof id === 'string' ? stored(id) : id.then(stored, refused)
}

/** A task in a transaction: unknown to the backend until the commit, and for ever after a rollback. */
class InTransaction extends StoredRemotely {
  override async settled (): Promise<TaskState> {
    for (let ms = 10; !this.store.closed && !await this.#isCommitted(); ms = Math.min(2 * ms, MAX_COMMIT_INTERVAL_MS)) await sleep(ms)
    return super.settled()
  }

  async #isCommitted (): Promise<boolean> {
    const info = await this.store.find(this.task.ownId).catch(() => null)
    return info !== null
  }
}
