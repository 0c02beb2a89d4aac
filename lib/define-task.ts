import { FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION } from './errors'
import { received } from './received'
import { AttemptContext, defaultContext, type TaskContext } from './task-context'
import type { Transfer, Transferable } from './snapshot'
import { resolveTaskOptions, type TaskOptions, type TaskSpec } from './task-options'
import { loadHandler, moduleUrl } from './thread-module'

const kDefinition = Symbol('fastify-background-tasks.definition')

/** Those of `DefinitionOptions` and `ThreadDefinitionOptions`. */
const DEFINITION_OPTIONS = ['runOn', 'timeout', 'attempts', 'backoff', 'delay', 'key', 'local', 'transfer']

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

/** The defaults of a definition that runs on a thread. */
export interface ThreadDefinitionOptions<Payload> extends DefinitionOptions {
  /**
   * With `local: true`, what of the payload moves to the thread instead of being copied: ArrayBuffers, or typed arrays and
   * Buffers that fill theirs. `add` empties them. Of a task with several attempts, each but the last gets a copy.
   */
  transfer?: (payload: Payload) => readonly Transferable[]
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
  /** The URL of the module that runs on a thread; `null` for a handler that runs here. */
  readonly file: string | null
  readonly transfer: Transfer | null
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
  options?: DefinitionOptions
): TaskDefinition<Payload, Result>
/**
 * Defines a task that runs on a worker thread, for work that would hold up the server. Called as a function it runs in the
 * thread of the caller.
 * @param name Unique within the application.
 * @param file The URL or the absolute path of a module whose default export is the handler. It is loaded in the thread,
 * and tried when the application starts.
 * @param options Defaults for every `add` of this task.
 * @throws FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION
 */
export function defineTask<Payload = undefined, Result = unknown> (
  name: string,
  file: URL | string,
  options?: ThreadDefinitionOptions<Payload>
): TaskDefinition<Payload, Promise<Result>>
export function defineTask (
  name: string,
  work: TaskHandler<any, unknown> | URL | string,
  options: ThreadDefinitionOptions<any> = {}
): TaskDefinition {
  if (typeof name !== 'string') throw new FST_BGT_INVALID_TASK_OPTION('name', 'a non-empty string', received(name))
  if (typeof options !== 'object' || options === null) throw new FST_BGT_INVALID_TASK_OPTION('options', 'an object', received(options))
  const file = moduleUrl(work)
  if (typeof work !== 'function' && file === null) throw new FST_BGT_INVALID_TASK(received(work))
  const handler = file === null ? work as TaskHandler<any, unknown> : handlerOf(name, file)
  const { local = false, transfer = null, ...taskOptions } = options
  if (typeof local !== 'boolean') throw new FST_BGT_INVALID_TASK_OPTION('local', 'a boolean', received(local))
  if (transfer !== null && (typeof transfer !== 'function' || file === null || !local)) {
    throw new FST_BGT_INVALID_TASK_OPTION('transfer', 'a function, and belongs to a task with a file and `local: true`', received(transfer))
  }
  for (const [option, value] of Object.entries(options)) {
    if (!DEFINITION_OPTIONS.includes(option)) throw new FST_BGT_INVALID_TASK_OPTION(option, `one of ${DEFINITION_OPTIONS.join(', ')}`, received(value))
  }
  const definition: { -readonly [field in keyof Definition]: Definition[field] } = {
    name, handler, file, transfer, spec: resolveTaskOptions({ ...taskOptions, name })
  }
  definition.spec = { ...definition.spec, local, definition }

  function definedTask (payload: unknown, ctx?: Partial<TaskContext>): unknown {
    // A context handed on by another task goes through whole: its members are getters, which a copy would lose.
    return handler(payload, ctx instanceof AttemptContext ? ctx : { ...defaultContext(name), ...ctx })
  }
  Object.defineProperty(definedTask, 'name', { value: name })
  Object.defineProperty(definedTask, kDefinition, { value: definition })
  return definedTask as unknown as TaskDefinition
}

/** The handler of a module, for callers that want it in their own thread. */
function handlerOf (name: string, file: string): TaskHandler<any, unknown> {
  return async (payload, ctx) => (await loadHandler(name, file))(payload, ctx)
}

/** The definition behind a function, `undefined` for a plain one. */
export function definitionOf (fn: unknown): Definition | undefined {
  return (fn as Partial<TaskDefinition>)[kDefinition]
}
