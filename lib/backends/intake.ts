import type { ThreadRoom } from '../../types/backend'

/** A task as an intake sees it. */
export interface TakenTask {
  readonly name: string
  /** Workers that went away while they had the task. */
  readonly crashes: number
}

/**
 * Tasks that one worker has taken, and the rule for what it may take beside them: no more than can begin. A task under which a worker
 * went away runs alone: if it is the cause, it takes no other task along. Made with the worker.
 */
export class Intake {
  readonly #concurrency: number
  readonly #threads: ThreadRoom
  #count = 0
  #onThreads = 0
  #alone = false

  constructor (concurrency: number, threads: ThreadRoom) {
    this.#concurrency = concurrency
    this.#threads = threads
  }

  /** How many more tasks the worker may take. */
  get places (): number {
    return this.#alone ? 0 : this.#concurrency - this.#count
  }

  /** Whether a task could begin at once, if there is a place. */
  canBegin ({ name, crashes }: TakenTask): boolean {
    if (this.#count === 0) return true
    return crashes === 0 && (!this.#threads.names.has(name) || this.#onThreads < this.#threads.free())
  }

  take (task: TakenTask): void {
    this.#change(task, 1)
    this.#alone = task.crashes > 0
  }

  release (task: TakenTask): void {
    this.#change(task, -1)
    this.#alone = false
  }

  #change ({ name }: TakenTask, by: 1 | -1): void {
    this.#count += by
    if (this.#threads.names.has(name)) this.#onThreads += by
  }

  /** A copy that can be filled on trial. */
  copy (): Intake {
    const copy = new Intake(this.#concurrency, this.#threads)
    copy.#count = this.#count
    copy.#onThreads = this.#onThreads
    copy.#alone = this.#alone
    return copy
  }
}
