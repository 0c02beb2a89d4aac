import type { TaskState } from '../../types/task'

/** The states in the order of a task's life; those from `completed` on are final. `Task.status` is an index into them. */
export const STATES = [
  'collecting', 'pending', 'running',
  'completed', 'failed', 'dropped', 'cancelled', 'replaced', 'captured', 'stored'
] as const satisfies readonly TaskState[]

export const COLLECTING = 0
export const PENDING = 1
export const RUNNING = 2
export const COMPLETED = 3
export const FAILED = 4
export const DROPPED = 5
export const CANCELLED = 6
export const REPLACED = 7
export const CAPTURED = 8
export const STORED = 9
