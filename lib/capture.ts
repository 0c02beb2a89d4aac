import type { Line } from './line'
import { parsePayload } from './payload'
import type { Task } from './task'

/** A task that would have run, as `mode: 'capture'` records it. */
export interface CapturedTask {
  name: string
  /** The arguments of a plain function; empty for a defined task. */
  args: unknown[]
  /** The payload of a defined task, as its handler would get it; `undefined` for a plain function. */
  payload: unknown
  /** `null` for a task that the application added. */
  requestId: string | null
}

export function capture (task: Task, line: Line): CapturedTask {
  const defined = task.spec !== null && task.spec.definition !== null
  return {
    name: task.name,
    args: defined ? [] : task.args as unknown[],
    payload: defined ? parsePayload(task.payload) : undefined,
    requestId: line.requestId
  }
}
