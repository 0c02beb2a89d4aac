import type { Task } from '../task/task'
import type { Attempt } from './attempt'

/** The threads, as the rest of the plugin uses them. */
export interface ThreadRunner {
  /** Runs an attempt as soon as a thread is free. Rejects with the reason where the attempt is abandoned before that. */
  run (attempt: Attempt, file: string): Promise<unknown>
  /**
   * @param replaced a task that makes room for the new one
   * @throws FST_BGT_OVERLOADED at `maxQueue`
   */
  assertRoom (replaced: Task | null): void
  /** Counts a task until it comes to a thread, or settles. */
  accept (task: Task): void
  forget (task: Task): void
  /** Threads that are not taken by tasks which this process keeps to itself. */
  readonly freeForBackend: number
}
