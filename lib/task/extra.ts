import type { TaskState } from '../../types/task'

/** A task in the backend, from the moment it is sent there. */
export interface RemoteTask {
  /** Resolves when the backend has answered, or `storeTimeout` is over. */
  readonly answered: Promise<unknown>
  cancel (): Promise<boolean>
  /** The final state in the backend; `stored` if the backend does not know it. */
  settled (): Promise<TaskState>
}

/** The fields that few tasks need, in an object of their own so that other tasks stay small. */
export interface TaskExtra {
  id: string | null
  settled: Promise<TaskState> | null
  resolve: ((state: TaskState | Promise<TaskState>) => void) | null
  /** Attempts begun. */
  attempts: number
  /** Clears the timer of the delay or the backoff. */
  clearTimer: (() => void) | null
  /** The end of that timer, in ms of `Date.now()`. */
  due: number
  remote: RemoteTask | null
  /** Its number among the tasks of its request for the backend. */
  place: number
  progress: unknown
  result: unknown
  error: unknown
}

export function newExtra (): TaskExtra {
  return { id: null, settled: null, resolve: null, attempts: 0, clearTimer: null, due: 0, remote: null, place: 0, progress: undefined, result: undefined, error: undefined }
}
