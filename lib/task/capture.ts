import type { CapturedTask } from '../../types/task'
import type { Origin } from './origin'
import { parsePayload } from './payload'
import type { Task } from './task'

/** The record of a task that would have run, for `mode: 'capture'`. */
export function capture (task: Task, { requestId }: Origin): CapturedTask {
  const { name } = task
  const defined = task.spec !== null && task.spec.definition !== null
  if (defined) return { name, args: [], payload: parsePayload(task.payload), requestId }
  return { name, args: task.args as unknown[], payload: undefined, requestId }
}
