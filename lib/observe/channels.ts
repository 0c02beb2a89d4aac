import { channel, tracingChannel } from 'node:diagnostics_channel'
import type { AbandonMessage, DropMessage, RetryMessage, SettleMessage, TaskMessage } from '../../types/messages'
import type { Origin } from '../task/origin'
import type { Task } from '../task/task'
import { describe } from './report'

/*
 * The events of tasks, on channels of `node:diagnostics_channel`. Without a subscriber no message is made. Names and shapes are public:
 * docs/observability.md.
 */

export const addChannel = channel('fastify-background-tasks.add')
export const dropChannel = channel('fastify-background-tasks.drop')
export const retryChannel = channel('fastify-background-tasks.retry')
export const abandonChannel = channel('fastify-background-tasks.abandon')
export const settleChannel = channel('fastify-background-tasks.settle')
// No `TracingChannel<…>` here: its type parameters differ between versions of Node's types.
export const runChannel: ReturnType<typeof tracingChannel> = tracingChannel('fastify-background-tasks.run')

const { start, end, asyncStart, asyncEnd, error } = runChannel

/** Whether runs have a subscriber. `TracingChannel.hasSubscribers` came with Node 20.13. */
export function isTraced (): boolean {
  return start.hasSubscribers || end.hasSubscribers || asyncStart.hasSubscribers || asyncEnd.hasSubscribers || error.hasSubscribers
}

export function messageOf (task: Task, origin: Origin): TaskMessage {
  const { id, name, attempt } = describe(task)
  return { app: origin.app, task, id, name, attempt, requestId: origin.requestId }
}

export function publishAdd (task: Task, origin: Origin): void {
  addChannel.publish(messageOf(task, origin))
}

export function publishDrop (task: Task, origin: Origin, reason: string): void {
  if (dropChannel.hasSubscribers) dropChannel.publish({ ...messageOf(task, origin), reason } satisfies DropMessage)
}

export function publishRetry (task: Task, origin: Origin, error: unknown): void {
  if (retryChannel.hasSubscribers) retryChannel.publish({ ...messageOf(task, origin), error } satisfies RetryMessage)
}

export function publishAbandon (task: Task, origin: Origin, error: unknown): void {
  if (abandonChannel.hasSubscribers) abandonChannel.publish({ ...messageOf(task, origin), error } satisfies AbandonMessage)
}

export function publishSettle (task: Task, origin: Origin): void {
  const { state, extra: { error } } = task
  settleChannel.publish({ ...messageOf(task, origin), state, error: state === 'failed' ? error : undefined } satisfies SettleMessage)
}
