import { randomUUID } from 'node:crypto'
import type { ContextTaskOptions, TaskHandle } from '../../types/task'
import { currentCarrier } from '../observe/propagation'
import type { Addition } from '../run/attempt-collector'
import { FST_BGT_NOT_ON_THREAD, FST_BGT_UNKNOWN_TASK } from '../shared/errors'
import { received } from '../shared/show'
import { checkFunction } from '../task/define'
import { nameOf } from '../task/name'
import { MEANINGLESS_IN_CONTEXT, refuseMeaningless, resolveTaskOptions } from '../task/options'
import { serializePayload } from '../task/payload'
import { refusedAdd, refusedArguments } from '../task/refused-task'

/**
 * What `ctx.add` on a thread sends to the main thread. Of the definition only the name counts: the main thread has one with that name.
 * @param tasks the names that the main thread knows, each with whether the payload is cloned
 * @throws as `TaskContext.add`, except what the main thread alone can tell
 */
export function additionOf (tasks: ReadonlyMap<string, boolean>, first: unknown, args: unknown[]): Addition {
  const fn = typeof first === 'function' ? first : args.shift()
  if (typeof fn !== 'function') throw refusedAdd(first, fn)
  const definition = checkFunction(fn)
  if (definition === undefined) throw new FST_BGT_NOT_ON_THREAD(`the function '${nameOf(fn)}'`)
  if (args.length > 1) throw refusedArguments(args)
  let options: ContextTaskOptions | null = null
  if (fn !== first) {
    refuseMeaningless(first, MEANINGLESS_IN_CONTEXT)
    resolveTaskOptions(first, definition.spec)
    options = { ...first as ContextTaskOptions }
  }
  const { name } = definition
  const isCloned = tasks.get(name)
  if (isCloned === undefined) throw new FST_BGT_UNKNOWN_TASK(name, received([...tasks.keys()]))
  const payload = isCloned ? { value: args[0] } : { json: serializePayload(name, args[0]) }
  return { id: randomUUID(), task: name, options, payload, carrier: currentCarrier() }
}

/** The handle of a task that was added on a thread. The task is on the main thread, with all else that a handle has. */
export class ThreadHandle implements TaskHandle {
  readonly id: string
  readonly name: string

  constructor ({ id, task, options }: Addition) {
    this.id = id
    this.name = options?.name ?? task
  }

  get state (): never {
    throw new FST_BGT_NOT_ON_THREAD('a read of its state')
  }

  cancel (): never {
    throw new FST_BGT_NOT_ON_THREAD('a call of cancel()')
  }

  settled (): never {
    throw new FST_BGT_NOT_ON_THREAD('a call of settled()')
  }
}
