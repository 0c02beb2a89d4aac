import { FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION } from './errors'
import { received } from './received'
import { AttemptContext, defaultContext, type TaskContext } from './task-context'
import { resolveTaskOptions, type TaskOptions, type TaskSpec } from './task-options'

const kDefinition = Symbol('fastify-background-tasks.definition')

/** What `defineTask` is given: the task's work. */
export type TaskHandler<Payload, Result> = (payload: Payload, ctx: TaskContext) => Result

/** The defaults of a definition. `signal` has no place here: the context always has one. */
export interface DefinitionOptions extends Omit<TaskOptions, 'name' | 'signal' | 'dedupe'> {
  /**
   * Keeps the task in the process that adds it, where other defined tasks go to the backend.
   * @default false
   */
  local?: boolean
}

/**
 * A named task. `add` takes it together with its payload; as a function it calls the handler directly, for unit tests
 * and for code that wants the work done now.
 */
export interface TaskDefinition<Payload = any, Result = unknown> {
  (payload: Payload, ctx?: Partial<TaskContext>): Result
  /** The name that the definition was made with. */
  readonly name: string
  /** @internal */
  readonly [kDefinition]: Definition
}

/** What the plugin knows of a definition. */
export interface Definition {
  readonly name: string
  readonly handler: TaskHandler<any, unknown>
  readonly spec: TaskSpec
}

/**
 * Defines a task that has a name and one JSON payload, and so can run anywhere. It must also be listed in the option
 * `tasks` of the plugin.
 * @param name Unique within the application.
 * @param handler Gets a copy of the payload, a new one on every attempt, and the {@link TaskContext}.
 * @param options Defaults for every `add` of this task.
 * @throws FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION
 */
export function defineTask<Payload = undefined, Result = unknown> (
  name: string,
  handler: TaskHandler<Payload, Result>,
  options: DefinitionOptions = {}
): TaskDefinition<Payload, Result> {
  if (typeof name !== 'string') throw new FST_BGT_INVALID_TASK_OPTION('name', 'a non-empty string', received(name))
  if (typeof options !== 'object' || options === null) throw new FST_BGT_INVALID_TASK_OPTION('options', 'an object', received(options))
  if (typeof handler !== 'function') throw new FST_BGT_INVALID_TASK(received(handler))
  const { local = false, ...taskOptions } = options
  if (typeof local !== 'boolean') throw new FST_BGT_INVALID_TASK_OPTION('local', 'a boolean', received(local))
  for (const taken of ['name', 'signal', 'dedupe'] as const) {
    if (taken in options) throw new FST_BGT_INVALID_TASK_OPTION(taken, 'left out of a definition', received((options as TaskOptions)[taken]))
  }
  const definition: { -readonly [field in keyof Definition]: Definition[field] } = {
    name, handler, spec: resolveTaskOptions({ ...taskOptions, name })
  }
  definition.spec = { ...definition.spec, local, definition }

  function definedTask (payload: Payload, ctx?: Partial<TaskContext>): Result {
    // A context handed on by another task goes through whole: its members are getters, which a copy would lose.
    return handler(payload, ctx instanceof AttemptContext ? ctx : { ...defaultContext(name), ...ctx })
  }
  Object.defineProperty(definedTask, 'name', { value: name })
  Object.defineProperty(definedTask, kDefinition, { value: definition })
  return definedTask as unknown as TaskDefinition<Payload, Result>
}

/** The definition behind a function, `undefined` for a plain one. */
export function definitionOf (fn: unknown): Definition | undefined {
  return (fn as Partial<TaskDefinition>)[kDefinition]
}
