import type { Task, TaskState } from './task'

/** What `find` tells of a task. */
export interface TaskInfo {
  id: string
  name: string
  state: TaskState
  /** Attempts begun. */
  attempts: number
  /** What the task last gave to `ctx.progress`; `undefined` if nothing. */
  progress: unknown
  /** What it returned, once it is `completed`. */
  result: unknown
  /** What its last attempt threw, once it is `failed`. */
  error: unknown
}

/** How many settled tasks can still be found. */
const RETAINED = 1_000

/** The tasks that `find` finds: those whose id somebody has read, and so can ask for. */
export class TaskIndex {
  readonly #live = new Map<string, Task>()
  /** In the order they were settled. */
  readonly #settled = new Map<string, TaskInfo>()

  add (id: string, task: Task): void {
    this.#live.set(id, task)
  }

  settle (id: string, info: TaskInfo): void {
    if (!this.#live.delete(id) || info.state === 'stored') return
    this.#settled.set(id, info)
    if (this.#settled.size > RETAINED) this.#settled.delete(this.#settled.keys().next().value as string)
  }

  find (id: string): TaskInfo | null {
    return this.#live.get(id)?.info() ?? this.#settled.get(id) ?? null
  }
}
