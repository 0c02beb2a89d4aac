import type { FastifyBaseLogger } from 'fastify'
import type { TaskInfo } from '../task-index'
import type { Carrier } from '../propagation'
import type { LogOf } from '../request-log'
import type { BackoffOptions } from '../task-options'

export type { TaskInfo } from '../task-index'

/*
 * What a store of tasks has to do, and no more. What it leaves out, because the plugin does it for every backend alike:
 * when a request's tasks are stored and which of them (`runOn`), how the writes of concurrent requests are joined, how
 * long a write may take, how an attempt runs (context, timeout, signal, DI scope, log) and how the application closes.
 * No type of any connection is part of it.
 */

/** A task as it is stored: all of it is JSON. */
export interface StoredTask {
  /** A UUID. */
  id: string
  /** The name of the definition. */
  name: string
  /** What logs call it: the option `name`, else the name of the definition. */
  label: string
  /** JSON text; `null` for a task without a payload. */
  payload: string | null
  /** The request that added it; `null` for the application. */
  requestId: string | null
  /** Attempts in all. */
  attempts: number
  backoff: Required<BackoffOptions> | null
  /** Milliseconds from now on. */
  delay: number
  /** Milliseconds for each attempt; 0 for no limit. */
  timeout: number
  /** No second task with the same id is stored while the first one is not settled. */
  dedupe: string | null
  /** What an instrumentation sends along, the trace context for instance; `null` without one. */
  carrier: Carrier | null
}

/** One attempt of a stored task, handed to this process to run. */
export interface Delivery {
  readonly task: StoredTask
  /** 1 on the first attempt; a delivery that a crash has cut off does not count. */
  readonly attempt: number
  /** Aborts when the task is cancelled, or the backend has lost it to another worker. */
  readonly signal: AbortSignal
  /** Stores how far the task has come. */
  progress (value: unknown): void
}

/**
 * How a delivery ended. A failed attempt is for the backend to count, and to try again. One that was no attempt is not
 * counted: the task is to be handed out again, here or to another worker, after so many ms.
 */
export type DeliveryEnd =
  | { state: 'completed', result: unknown }
  | { state: 'failed', error: unknown }
  | { state: 'cancelled' }
  | { state: 'not attempted', reason: Error, delay: number }

/** Runs one attempt. Does not reject. */
export type Deliver = (delivery: Delivery) => Promise<DeliveryEnd>

/** A task that has not ended well, as a backend lists it. */
export interface ListedTask extends Pick<StoredTask, 'id' | 'name' | 'label' | 'payload' | 'requestId' | 'attempts'> {
  /** `delayed` has not come to its first attempt, `retrying` waits for another one. */
  state: 'running' | 'waiting' | 'delayed' | 'retrying' | 'failed'
  /** When it came into that state, in ms of `Date.now()`; `null` if that is not known. */
  since: number | null
  /** When it may run, if it is `delayed` or `retrying`. */
  due: number | null
  /** Attempts begun. */
  attempt: number
  progress: unknown
  /** What its last attempt threw. */
  error: Error | undefined
}

/** What a backend has, its counts in full, its tasks up to a limit for each state. */
export interface TaskList {
  counts: { running: number, waiting: number, delayed: number, failed: number }
  tasks: ListedTask[]
}

export interface TaskBackend {
  /** What logs call it. */
  readonly name: string
  /**
   * Connects, and prepares what it needs. Rejects if it cannot, which fails the application's start.
   * @param log for what is not about a task
   * @param logOf the logger for lines about a task, by its `requestId`
   */
  start (log: FastifyBaseLogger, logOf: LogOf): Promise<void>
  /**
   * How many calls of `store` may be under way at once. One that answers each task by itself is fastest with many, one
   * that commits to a disk with few, each of which takes what has gathered meanwhile.
   */
  readonly writes: number
  /**
   * Stores batches of tasks, each whole or not at all, and resolves when a crash of any process could lose none of them.
   * The result has for each batch the error that kept it out, or the ids under which its tasks are stored: another one
   * than a task's own if `dedupe` has found that. Rejects if no batch is stored.
   */
  store (batches: StoredTask[][]): Promise<Array<string[] | Error>>
  /** Begins to hand out tasks, at most so many at once. */
  work (concurrency: number, deliver: Deliver): Promise<void>
  /** Hands out no more tasks. */
  pause (): Promise<void>
  find (id: string): Promise<TaskInfo | null>
  /**
   * Resolves with `true` if the task will not run any more, or runs in this process and has been told to stop; with
   * `false` if it has ended, or runs in another one.
   */
  cancel (id: string): Promise<boolean>
  /** Lists what runs, waits and has failed, at most so many tasks of each. A backend may leave it out. */
  list? (limit: number): Promise<TaskList>
  /** Has a failed task run again, under its id, with all its attempts. Resolves with `false` if it has not failed. */
  retry? (id: string): Promise<boolean>
  /**
   * Lets go of everything, once the deliveries under way have ended; after so many ms in any case, and then they are left
   * to another worker. Also called where `start` or `work` have failed.
   */
  close (ms: number): Promise<void>
}
