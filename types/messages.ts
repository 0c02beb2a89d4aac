import type { AppBackgroundTasks } from './collector'
import type { TaskHandle, TaskState } from './task'

/** Data that an instrumentation sends with a task to the process or thread that runs it: W3C trace context, for instance. */
export type Carrier = Record<string, string>

/** The fields of every message. Arguments and payload of the task are not included. */
export interface TaskMessage {
  /** `app.backgroundTasks` of the task's registration. */
  readonly app: AppBackgroundTasks
  /** The handle that `add` returned; for a task from a backend, the handle of this delivery. */
  readonly task: TaskHandle
  /** The same as `task.id`; reading it does not make the task known to `find`. */
  readonly id: string
  readonly name: string
  /** Attempts begun: 0 before the first. */
  readonly attempt: number
  /** The id of the request that added the task; `null` if the application added it. */
  readonly requestId: string | null
}

/** One attempt. All its events have the same message object, whose fields are set as the attempt proceeds. */
export interface RunMessage extends TaskMessage {
  /** The carrier that came with the task through the backend; `null` for a task of this process. */
  readonly carrier: Carrier | null
  /** Whether the function returned a promise, so that `asyncStart` and `asyncEnd` follow. Set before `end`. */
  async: boolean
  /** The return value of the function, or the value of its promise. */
  result: unknown
  /** The error that the function threw, or its promise rejected with. Set before the event `error`. */
  error: unknown
}

/** A task that will not run. */
export interface DropMessage extends TaskMessage {
  readonly reason: string
}

/** A failed attempt that another one follows. */
export interface RetryMessage extends TaskMessage {
  readonly error: unknown
}

/** An abandoned function: it still runs, but its attempt has ended by its timeout, `cancel()` or the application's close. */
export interface AbandonMessage extends TaskMessage {
  readonly error: unknown
}

/** The end of a task in this process. */
export interface SettleMessage extends TaskMessage {
  readonly state: TaskState
  /** If `state` is `failed`: the error of the last attempt, or the reason why none could begin. Else `undefined`. */
  readonly error: unknown
}
