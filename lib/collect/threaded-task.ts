import type { TaskDefinition } from '../../types/definition'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { serializePayload } from '../task/payload'
import { takeSnapshot } from '../task/snapshot'
import type { Definition, TaskSpec } from '../task/spec'
import { Task } from '../task/task'

/** Makes a task that runs on a thread of this process: its payload is cloned, and counts in the queue for threads. */
export function threadedTask ({ ledger, threads }: Engine, line: Line, fn: TaskDefinition, payload: unknown, spec: TaskSpec): Task {
  const { name, transfer } = spec.definition as Definition
  const assertRoom = () => {
    const replaced = line.replacedBy(spec)
    ledger.assertRoom(replaced)
    threads?.assertRoom(replaced)
  }
  // Refused before buffers are moved out of the caller's reach.
  assertRoom()
  const task = new Task(line, fn, [spec.local ? takeSnapshot(name, payload, transfer) : serializePayload(name, payload)], spec)
  // Check again: cloning runs user code, which may have called `add`.
  assertRoom()
  threads?.accept(task)
  return task
}
