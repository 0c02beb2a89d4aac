import type { TaskDefinition } from '../../types/definition'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { FST_BGT_UNKNOWN_TASK, FST_BGT_UNSUPPORTED } from '../shared/errors'
import { received } from '../shared/show'
import { checkFunction } from '../task/define'
import { resolveTaskOptions } from '../task/options'
import { serializePayload } from '../task/payload'
import { refusedAdd, refusedArguments } from '../task/refused-task'
import type { Definition, TaskSpec } from '../task/spec'
import { Task, type TaskFunction } from '../task/task'
import { threadedTask } from './threaded-task'

/**
 * Makes a task from the arguments of `add`. The task is checked, but not yet accepted.
 * @throws see `Add`
 */
export function createTask (engine: Engine, line: Line, first: unknown, args: unknown[]): Task {
  if (typeof first === 'function') {
    const definition = checkFunction(first)
    if (definition === undefined) return new Task(line, first as TaskFunction, args, null)
    return definedTask(engine, line, first as TaskDefinition, args, definition.spec)
  }
  const fn = args.shift()
  if (typeof fn !== 'function') throw refusedAdd(first, fn)
  const definition = checkFunction(fn)
  const spec = resolveTaskOptions(first, definition?.spec)
  if (definition === undefined) return new Task(line, fn as TaskFunction, args, spec)
  return definedTask(engine, line, fn as TaskDefinition, args, spec)
}

export function definedTask (engine: Engine, line: Line, task: TaskDefinition, args: unknown[], spec: TaskSpec): Task {
  if (args.length > 1) throw refusedArguments(args)
  const { tasks, backend, mode } = engine.settings
  if (tasks.get(task.name) !== task) throw new FST_BGT_UNKNOWN_TASK(task.name, received([...tasks.keys()]))
  const staysHere = spec.local || backend === null || mode === 'capture'
  if (!staysHere && spec.dedupe !== null && backend.refuses?.dedupe !== undefined) {
    throw new FST_BGT_UNSUPPORTED(backend.name, "the task option 'dedupe'", backend.refuses.dedupe)
  }
  if ((spec.definition as Definition).file !== null && staysHere) return threadedTask(engine, line, task, args[0], spec)
  return new Task(line, task, [serializePayload(task.name, args[0])], spec)
}
