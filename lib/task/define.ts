import type { DefinitionOptions, TaskContext, TaskDefinition, TaskHandler, ThreadDefinitionOptions } from '../../types/definition'
import { FST_BGT_INVALID_TASK_OPTION, FST_BGT_NO_HANDLER } from '../shared/errors'
import { didYouMean } from '../shared/nearest'
import { readOr } from '../shared/read-or'
import { received, unreadable } from '../shared/show'
import { AttemptContext, defaultContext } from './context'
import { loadHandler, moduleUrl } from './module'
import { isPlainObject, resolveTaskOptions } from './options'
import { isGenerator, refusedTask } from './refused-task'
import type { Definition } from './spec'

const kDefinition = Symbol('fastify-background-tasks.definition')

/** The names of `DefinitionOptions` and `ThreadDefinitionOptions`. */
const DEFINITION_OPTIONS = ['runOn', 'timeout', 'attempts', 'backoff', 'delay', 'key', 'local', 'singleArgument', 'transfer']

/**
 * Defines a task with a name and one JSON payload, which can run in any process. The plugin option `tasks` must list it.
 * @param name A non-empty string of at most 1,024 bytes in UTF-8, unique within the application.
 * @param handler Called with a new copy of the payload on every attempt, and with the {@link TaskContext}.
 * @param options Defaults for every `add` of this task.
 * @throws FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION
 */
export function defineTask<Payload = undefined, Result = unknown> (
  name: string,
  handler: TaskHandler<Payload, Result>,
  options?: DefinitionOptions
): TaskDefinition<Payload, Result>
/**
 * Defines a task that runs on a worker thread, for work that would block the event loop. Called as a function, it runs in the caller's
 * thread.
 * @param name A non-empty string of at most 1,024 bytes in UTF-8, unique within the application.
 * @param file The URL or the absolute path of a module whose default export is the handler. The module is loaded in the thread. It is
 * also loaded when the application starts, which fails if that fails.
 * @param options Defaults for every `add` of this task.
 * @throws FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION
 */
export function defineTask<Payload = undefined, Result = unknown> (
  name: string,
  file: URL | string,
  options?: ThreadDefinitionOptions<Payload>
): TaskDefinition<Payload, Promise<Result>>
/**
 * Defines a task that runs elsewhere: in another process that shares the backend, or in a Celery worker. This process can add the task,
 * and never runs it. Called as a function, it throws FST_BGT_NO_HANDLER.
 * @param name The task's name in those processes.
 * @param options Defaults for every `add` of this task.
 * @throws FST_BGT_INVALID_TASK, FST_BGT_INVALID_TASK_OPTION
 */
export function defineTask<Payload = undefined, Result = unknown> (
  name: string,
  options?: Omit<DefinitionOptions, 'local'>
): TaskDefinition<Payload, Result>
export function defineTask (name: string, ...rest: unknown[]): TaskDefinition {
  // An explicit `undefined` is a mistake, such as an import that is not loaded yet.
  const elsewhere = rest.length === 0 || (rest.length === 1 && isOptions(rest[0]))
  const [work, options = {}] = (elsewhere ? [undefined, ...rest] : rest) as [unknown, ThreadDefinitionOptions<any>?]
  if (typeof name !== 'string') throw new FST_BGT_INVALID_TASK_OPTION('name', 'a non-empty string', received(name))
  if (!isOptions(options)) {
    throw new FST_BGT_INVALID_TASK_OPTION('options', 'an object, in the last place', received(options))
  }
  const file = fileOf(work)
  if (!isWork(work) && file === null && !elsewhere) throw refusedTask(work)
  const handler = elsewhere ? noHandler(name) : file === null ? work as TaskHandler<any, unknown> : handlerOf(name, file)
  const { local = false, transfer = null, singleArgument = false, ...taskOptions } = readOptions(options)
  if (typeof local !== 'boolean') throw new FST_BGT_INVALID_TASK_OPTION('local', 'a boolean', received(local))
  if (local && elsewhere) throw new FST_BGT_INVALID_TASK_OPTION('local', 'false, or left out, for a task without a function', received(local))
  if (typeof singleArgument !== 'boolean') throw new FST_BGT_INVALID_TASK_OPTION('singleArgument', 'a boolean', received(singleArgument))
  if (transfer !== null && (typeof transfer !== 'function' || file === null || !local)) {
    throw new FST_BGT_INVALID_TASK_OPTION('transfer', 'a function, and belongs to a task with a file and `local: true`', received(transfer))
  }
  const definition: { -readonly [field in keyof Definition]: Definition[field] } = {
    name, handler, file, transfer, elsewhere, singleArgument, spec: resolveTaskOptions({ ...taskOptions, name })
  }
  definition.spec = { ...definition.spec, local, definition }

  function definedTask (payload: unknown, ctx?: Partial<TaskContext>): unknown {
    // Do not copy a context that another task passes on: its members are getters.
    return handler(payload, ctx instanceof AttemptContext ? ctx : { ...defaultContext(name), ...ctx })
  }
  Object.defineProperty(definedTask, 'name', { value: name })
  Object.defineProperty(definedTask, kDefinition, { value: definition })
  return definedTask as unknown as TaskDefinition
}

function isWork (work: unknown): boolean {
  return readOr(() => typeof work === 'function' && !isGenerator(work), false)
}

function isOptions (value: unknown): boolean {
  return readOr(() => isPlainObject(value), false)
}

function fileOf (work: unknown): string | null {
  return readOr(() => moduleUrl(work), null)
}

/** Reads each option once. */
function readOptions (options: object): Record<string, any> {
  const read: Record<string, unknown> = {}
  let option = 'options'
  try {
    for (option of Object.keys(options)) read[option] = (options as Record<string, unknown>)[option]
  } catch (error) {
    throw new FST_BGT_INVALID_TASK_OPTION(option, 'something that can be read', unreadable(error))
  }
  for (const [option, value] of Object.entries(read)) {
    if (!DEFINITION_OPTIONS.includes(option)) throw new FST_BGT_INVALID_TASK_OPTION(option, `one of ${DEFINITION_OPTIONS.join(', ')}`, `${received(value)}${didYouMean(option, DEFINITION_OPTIONS)}`)
  }
  return read
}

/** The handler of a module, for calls in the caller's own thread. */
function handlerOf (name: string, file: string): TaskHandler<any, unknown> {
  return async (payload, ctx) => (await loadHandler(name, file))(payload, ctx)
}

/** The handler of a task that has no function here. */
function noHandler (name: string): TaskHandler<any, never> {
  return () => { throw new FST_BGT_NO_HANDLER(name, 'it cannot be called') }
}

/** The definition of a defined task; `undefined` for a plain function. */
export function definitionOf (fn: unknown): Definition | undefined {
  return (fn as { [kDefinition]?: Definition })[kDefinition]
}

/** Returns the definition behind a function, if there is one. Refuses generator functions: calling one runs nothing of it. */
export function checkFunction (fn: object): Definition | undefined {
  try {
    const definition = definitionOf(fn)
    if (definition !== undefined || !isGenerator(fn)) return definition
  } catch {
    // A proxy of the user's, or a getter.
  }
  throw refusedTask(fn)
}
