import type { MessagePort } from 'node:worker_threads'
import type { Carrier } from './propagation'
import type { Thrown } from './thrown'

/* What the main thread and a worker thread say to each other. All of it is structured-cloned. */

/** One attempt, as its thread is given it. */
export interface ThreadRequest {
  /** Which attempt of the process this is. */
  readonly number: number
  readonly id: string
  readonly name: string
  readonly attempt: number
  readonly requestId: string | null
  /** What a trace needs to go on in the thread. */
  readonly carrier: Carrier | null
  /** The URL of the module. */
  readonly file: string
  /** JSON text, or a value as it is. */
  payload: { json: string | undefined } | { value: unknown }
  /** The level of the logger, and those of its methods that write something. */
  readonly level: string
  readonly levels: readonly LogLevel[]
  /** Whether the thread is to say when it has the attempt. */
  readonly timed: boolean
  /** Whether the thread is to wait for a {@link ThreadOrder} when the attempt has ended; if not, it is the pool's again. */
  readonly stays: boolean
  /** The thread's end of a channel, if it has none. */
  channel: ThreadChannelEnd | null
  /** The attempt has ended before it came to a thread, and is not to run. */
  over: boolean
}

/** What a thread has of a channel. */
export interface ThreadChannelEnd {
  /** Takes {@link ThreadMessage}s, and brings {@link ThreadOrder}s. */
  readonly port: MessagePort
  /** Shared: the number of the attempt that the thread has begun last, as 32 bits. */
  readonly begun: Int32Array
}

export type ThreadOrder =
  | { type: 'run', request: ThreadRequest }
  | { type: 'leave' }
  | ThreadAbort

/** Aborts the signal of an attempt, which may have ended meanwhile, or still be on its way. */
export interface ThreadAbort {
  readonly type: 'abort'
  readonly number: number
  readonly reason: Thrown
}

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const

export type LogLevel = typeof LOG_LEVELS[number]

/** A line for the logger of the main thread. Errors are apart from the other fields, since a clone would lose their codes. */
export interface LogMessage {
  readonly type: 'log'
  readonly level: LogLevel
  readonly fields: Readonly<Record<string, unknown>>
  readonly errors: Readonly<Record<string, Thrown>>
  /** The message, and what is to be put into it. */
  readonly rest: readonly unknown[]
}

export type ThreadMessage =
  /** The thread has the attempt, whose time begins; the module may still have to be loaded. */
  | { type: 'arrived' }
  | { type: 'progress', value: unknown }
  | LogMessage
  | ThreadEnd
  /** The attempt has ended. How has been said before; it may be what the main thread cannot read. */
  | { type: 'ended', number: number }

export type ThreadEnd =
  | { type: 'completed', result: unknown }
  | { type: 'failed', thrown: Thrown }
