import type { Origin } from '../task/origin'
import type { Task } from '../task/task'

/**
 * Follows every task of one registration by direct calls, since a channel needs a message object for each event. The dashboard is one;
 * a registration has at most one.
 */
export interface Observer {
  /** Called when a task has been accepted, in its first state. */
  accepted (task: Task): void
  /** Called before a task changes its state. */
  moves (task: Task, to: number): void
  /** Called when a running task has reported progress. */
  progressed (task: Task): void
  /** Called when an attempt has failed and another one follows. */
  retried (task: Task, error: unknown): void
  /** Called when the last attempt has failed, while the task still has its arguments. */
  failed (task: Task, origin: Origin, error: unknown): void
}
