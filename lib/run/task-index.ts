import type { TaskInfo } from '../../types/task'
import { copyOf } from '../shared/copy'
import type { Task } from '../task/task'

/** Settled tasks that can still be found. */
const MAX_SETTLED = 1_000

/** The tasks that `find` finds: those whose id has been read, and those that have failed. */
export class TaskIndex {
  readonly #live = new Map<string, Task>()
  /** In the order in which they settled. */
  readonly #settled = new Map<string, TaskInfo>()

  add (task: Task): void {
    this.#live.set(task.ownId, task)
  }

  settle (task: Task): void {
    if (!task.hasId || !this.#live.delete(task.ownId) || task.state === 'stored') return
    this.#settled.set(task.ownId, task.info())
    if (this.#settled.size > MAX_SETTLED) this.#settled.delete(this.#settled.keys().next().value as string)
  }

  /** A task that has not settled. */
  live (id: string): Task | undefined {
    return this.#live.get(id)
  }

  find (id: string): TaskInfo | null {
    const info = this.#live.get(id)?.info() ?? this.#settled.get(id)
    return info === undefined ? null : { ...info, progress: copyOf(info.progress), result: copyOf(info.result) }
  }
}
