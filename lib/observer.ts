import type { Line } from './line'
import type { Task } from './task'

/**
 * Follows every task of one registration from inside, where the channels would cost too much: it is called for each task,
 * and makes nothing. At most one of them at a time.
 */
export interface Observer {
  /** A task has been taken in, in the state it has. */
  accepted (task: Task): void
  /** A task is about to leave its state for another. */
  moves (task: Task, to: number): void
  /** An attempt has failed, and another one follows. */
  retried (task: Task, error: unknown): void
  /** The last attempt has failed; the task still has what it was given. */
  failed (task: Task, line: Line, error: unknown): void
}
