import type { MessagePort } from 'node:worker_threads'
import type { Carrier } from '../../types/messages'
import type { Addition } from '../run/attempt-collector'
import type { Thrown } from './thrown'

/* The messages between the main thread and a worker thread. All are structured-cloned. */

/** One attempt, as it is sent to its thread. */
export interface ThreadRequest {
  /** Counts all attempts of the process, of whatever task. */
  readonly number: number
  readonly id: string
  readonly name: string
  readonly attempt: number
  readonly requestId: string | null
  /** The trace context, which continues in the thread. */
  readonly carrier: Carrier | null
  /** The URL of the module. */
  readonly file: string
  /** JSON text, or a value as it is. */
  payload: { json: string | undefined } | { value: unknown }
  /** The logger's level, and its methods that write at this level. */
  readonly level: string
  readonly levels: readonly LogLevel[]
  /** Whether the thread shall answer with `arrived`: the attempt has a timeout. */
  readonly timed: boolean
  /** Whether the thread waits for a {@link ThreadOrder} when the attempt has ended; if not, it returns to the pool. */
  readonly stays: boolean
  /** The thread's end of a new channel; `null` if the thread has a channel. */
  channel: ThreadChannelEnd | null
  /** The attempt ended before it reached a thread, and must not run. */
  over: boolean
}

/** A thread's end of a channel. */
export interface ThreadChannelEnd {
  /** Sends {@link ThreadMessage}s, receives {@link ThreadOrder}s. */
  readonly port: MessagePort
  /** Shared: the number of the attempt that the thread has begun last, as 32 bits. */
  readonly begun: Int32Array
  /** The names of the tasks that a handler may add, each with whether its payload is cloned; else it is JSON. */
  readonly tasks: ReadonlyMap<string, boolean>
}

export type ThreadOrder =
  | { type: 'run', request: ThreadRequest }
  | { type: 'return' }
  | ThreadAbort

/** Aborts the signal of an attempt, which may have ended already, or not have reached the thread yet. */
export interface ThreadAbort {
  readonly type: 'abort'
  readonly number: number
  readonly reason: Thrown
  /** Whether the attempt is over for the main thread, which waits for it no longer. */
  readonly over: boolean
}

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const

export type LogLevel = typeof LOG_LEVELS[number]

/** A line for the main thread's logger. Errors have a field of their own, since a clone would lose their codes. */
export interface LogMessage {
  readonly type: 'log'
  readonly level: LogLevel
  readonly fields: Readonly<Record<string, unknown>>
  readonly errors: Readonly<Record<string, Thrown>>
  /** The message and its interpolation values. */
  readonly rest: readonly unknown[]
}

export type ThreadMessage =
  /** The thread has the attempt: its timeout starts, before the module is loaded. */
  | { type: 'arrived' }
  | { type: 'progress', value: unknown }
  | { type: 'add', addition: Addition }
  | LogMessage
  | ThreadEnd
  /** Follows a {@link ThreadEnd} that the main thread may not be able to read. */
  | { type: 'ended', number: number }

export type ThreadEnd =
  /** @property added the number of `add` messages: one that the main thread cannot read does not arrive there */
  | { type: 'completed', result: unknown, added: number }
  | { type: 'failed', thrown: Thrown }
