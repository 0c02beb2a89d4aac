import { channel, tracingChannel } from 'node:diagnostics_channel'
import type { AppBackgroundTasks } from './app-tasks'
import type { Line } from './line'
import type { Carrier } from './propagation'
import { describe } from './report'
import type { Task, TaskHandle, TaskState } from './task'

/*
 * What happens to tasks, for whoever subscribes to it through `node:diagnostics_channel`. Without a subscriber nothing is
 * made and nothing is called. Names and shapes are public: docs/observability.md.
 */

/** What every message says. The task's arguments, or its payload, are no part of it. */
export interface TaskMessage {
  /** `app.backgroundTasks` of the registration that has the task. */
  readonly app: AppBackgroundTasks
  /** The very object that `add` returned; on a worker, the one of this delivery. */
  readonly task: TaskHandle
  /** As `task.id`, but it does not make `find` remember the task. */
  readonly id: string
  readonly name: string
  /** Attempts begun: 0 before the first. */
  readonly attempt: number
  /** The request that added the task; `null` for one that the application added. */
  readonly requestId: string | null
}

/** One attempt. All events of it have the same object, which is completed as it goes on. */
export interface RunMessage extends TaskMessage {
  /** What came through the backend with the task; `null` for a task of this process. */
  readonly carrier: Carrier | null
  /** Set before `end`: the function returned a promise, and `asyncStart` and `asyncEnd` follow. */
  async: boolean
  /** What the function returned, or its promise resolved with. */
  result: unknown
  /** What it threw, or its promise rejected with, from the event `error` on. */
  error: unknown
}

/** A task that will not run. */
export interface DropMessage extends TaskMessage {
  readonly reason: string
}

/** An attempt that failed, and is to be followed by another one. */
export interface RetryMessage extends TaskMessage {
  readonly error: unknown
}

/** A function that still runs, and whose task has been given up: its timeout, `cancel()` or the application's close. */
export interface AbandonMessage extends TaskMessage {
  readonly error: unknown
}

/** The end of a task in this process. */
export interface SettleMessage extends TaskMessage {
  readonly state: TaskState
  /** What its last attempt threw, or why it could not be begun, if `state` is `failed`. */
  readonly error: unknown
}

export const addChannel = channel('fastify-background-tasks.add')
export const dropChannel = channel('fastify-background-tasks.drop')
export const retryChannel = channel('fastify-background-tasks.retry')
export const abandonChannel = channel('fastify-background-tasks.abandon')
export const settleChannel = channel('fastify-background-tasks.settle')
export const runChannel = tracingChannel('fastify-background-tasks.run')

const { start, end, asyncStart, asyncEnd, error } = runChannel

/** Whether anybody follows runs. Node 20.12 and before cannot be asked for all five at once. */
export function isTraced (): boolean {
  return start.hasSubscribers || end.hasSubscribers || asyncStart.hasSubscribers || asyncEnd.hasSubscribers || error.hasSubscribers
}

export function messageOf (task: Task, line: Line): TaskMessage {
  const { id, name, attempt } = describe(task)
  return { app: line.runtime.door as AppBackgroundTasks, task, id, name, attempt, requestId: line.requestId }
}

export function publishAdd (task: Task, line: Line): void {
  addChannel.publish(messageOf(task, line))
}

export function publishDrop (task: Task, line: Line, reason: string): void {
  if (dropChannel.hasSubscribers) dropChannel.publish({ ...messageOf(task, line), reason } satisfies DropMessage)
}

export function publishRetry (task: Task, line: Line, error: unknown): void {
  if (retryChannel.hasSubscribers) retryChannel.publish({ ...messageOf(task, line), error } satisfies RetryMessage)
}

export function publishAbandon (task: Task, line: Line, error: unknown): void {
  if (abandonChannel.hasSubscribers) abandonChannel.publish({ ...messageOf(task, line), error } satisfies AbandonMessage)
}

export function publishSettle (task: Task, line: Line): void {
  const { state, extra: { error } } = task
  settleChannel.publish({ ...messageOf(task, line), state, error: state === 'failed' ? error : undefined } satisfies SettleMessage)
}
