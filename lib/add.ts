import { FST_BGT_INVALID_TASK, FST_BGT_UNKNOWN_TASK } from './errors'
import { definitionOf, type Definition, type TaskDefinition } from './define-task'
import type { Line } from './line'
import { serializePayload } from './payload'
import { received } from './received'
import { takeSnapshot } from './snapshot'
import { Task, type TaskFunction, type TaskHandle } from './task'
import { resolveTaskOptions, type TaskOptions, type TaskSpec } from './task-options'

/** The arguments that a payload makes: one, which may be left out where the payload may be `undefined`. */
type PayloadArguments<Payload> = undefined extends Payload ? [payload?: Payload] : [payload: Payload]

/** `add`, as requests and the application have it. */
export interface Add {
  /**
   * Adds a defined task with its payload, of which a snapshot is taken.
   * @throws FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_UNCLONABLE, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<Payload> (task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): TaskHandle
  /**
   * Adds a function, sync or async, with exactly the arguments given.
   * @throws FST_BGT_INVALID_TASK, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<Args extends unknown[]> (fn: (...args: Args) => unknown, ...args: Args): TaskHandle
  /**
   * Adds a defined task with options that go before those of its definition.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Payload> (options: TaskOptions & { signal?: never }, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): TaskHandle
  /**
   * Adds a function that gets an `AbortSignal` after its arguments.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Args extends unknown[]> (options: TaskOptions & { signal: true }, fn: (...args: [...Args, AbortSignal]) => unknown, ...args: Args): TaskHandle
  /**
   * Adds a function with options.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Args extends unknown[]> (options: TaskOptions & { signal?: false }, fn: (...args: Args) => unknown, ...args: Args): TaskHandle
}

/** From the arguments of `add` to a task of the line, checked but not yet accepted. */
export function createTask (line: Line, first: unknown, args: unknown[]): Task {
  if (typeof first === 'function') {
    const definition = definitionOf(first)
    if (definition === undefined) return new Task(line, checkFunction(first), args, null)
    return definedTask(line, first as TaskDefinition, args[0], definition.spec)
  }
  const fn = args.shift()
  if (typeof fn !== 'function') throw new FST_BGT_INVALID_TASK(received(typeof first === 'object' && first !== null ? fn : first))
  const definition = definitionOf(fn)
  const spec = resolveTaskOptions(first, definition?.spec)
  if (definition === undefined) return new Task(line, checkFunction(fn), args, spec)
  return definedTask(line, fn as TaskDefinition, args[0], spec)
}

/** Calling a generator function runs nothing of it: it would complete, and have done nothing. */
function checkFunction (fn: object): TaskFunction {
  // Two comparisons: async functions have such a tag, too, and a look into its text was a tenth of the cost of a task.
  const tag = (fn as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag]
  if (tag === 'GeneratorFunction' || tag === 'AsyncGeneratorFunction') throw new FST_BGT_INVALID_TASK(received(fn))
  return fn as TaskFunction
}

function definedTask (line: Line, task: TaskDefinition, payload: unknown, spec: TaskSpec): Task {
  const { tasks } = line.runtime.options
  if (tasks.get(task.name) !== task) throw new FST_BGT_UNKNOWN_TASK(task.name, received([...tasks.keys()]))
  const { store } = line.runtime
  const goesToThread = (spec.definition as Definition).file !== null && (spec.local || store === null)
  return goesToThread ? threadedTask(line, task, payload, spec) : new Task(line, task, [serializePayload(task.name, payload)], spec)
}

function threadedTask (line: Line, fn: TaskDefinition, payload: unknown, spec: TaskSpec): Task {
  const { ledger, threads } = line.runtime
  const { name, transfer } = spec.definition as Definition
  // Whatever may refuse the task does so before buffers are moved out of the caller's reach.
  ledger.admit()
  threads?.admit()
  const task = new Task(line, fn, [spec.local ? takeSnapshot(name, payload, transfer) : serializePayload(name, payload)], spec)
  // Once more: what copies the payload calls functions of the user's, which may have added. From here on nothing refuses.
  ledger.admit()
  threads?.admit()
  threads?.accept(task)
  return task
}
