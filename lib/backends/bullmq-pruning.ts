import type { Queue } from 'bullmq'
import type { Retention, RETAIN } from './retention'

/** Milliseconds between two looks for tasks that need not be kept any longer. */
const INTERVAL = 15_000

/** Jobs that are removed in one statement. */
const BATCH = 1_000

/**
 * Removes settled tasks from Postgres, from time to time. BullMQ would do it with the end of each task, and there read all
 * that is kept: with 10,000 of them that took 20 ms a task, and workers that ended tasks at the same time came into
 * deadlocks, after which tasks that had completed ran again (BullMQ 6.7). In Redis the same costs next to nothing.
 */
export class Pruning {
  readonly #queue: Queue
  readonly #retain: typeof RETAIN
  readonly #failed: (error: Error) => void
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor (queue: Queue, retain: typeof RETAIN, failed: (error: Error) => void) {
    this.#queue = queue
    this.#retain = retain
    this.#failed = failed
    this.#schedule()
  }

  #schedule (): void {
    this.#timer = setTimeout(() => this.#prune(), INTERVAL)
  }

  async #prune (): Promise<void> {
    try {
      await this.#remove('completed', this.#retain.completed)
      await this.#remove('failed', this.#retain.failed)
    } catch (error) {
      if (!this.#stopped) this.#failed(error as Error)
    }
    if (!this.#stopped) this.#schedule()
  }

  async #remove (state: 'completed' | 'failed', { age, count }: Retention): Promise<void> {
    // The first one, from the newest on, that is too many.
    const [surplus] = await this.#queue.getJobs([state], count, count)
    const until = Math.max(Date.now() - age * 1_000, surplus?.finishedOn ?? 0)
    let removed = BATCH
    while (removed === BATCH && !this.#stopped) removed = (await this.#queue.clean(Date.now() - until, BATCH, state)).length
  }

  stop (): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }
}
