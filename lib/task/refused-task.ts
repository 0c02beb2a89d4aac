import { FST_BGT_INVALID_TASK } from '../shared/errors'
import { ignoreRejection, isThenable } from '../shared/promises'
import { readOr } from '../shared/read-or'
import { received } from '../shared/show'

/** Whether a value is a promise or another thenable; `false` if reading it throws. */
export function isPromiseLike (value: unknown): boolean {
  return readOr(() => isThenable(value), false)
}

/** Whether a function is a generator function: calling one runs nothing of it. Compares tags; parsing the source is slow. */
export function isGenerator (fn: object): boolean {
  const tag = (fn as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag]
  return tag === 'GeneratorFunction' || tag === 'AsyncGeneratorFunction'
}

/** The error for a value that is not a task. A promise usually means that the user has called the function instead of passing it. */
export function refusedTask (value: unknown): Error {
  if (!isPromiseLike(value)) return new FST_BGT_INVALID_TASK(received(value))
  ignoreRejection(value)
  return new FST_BGT_INVALID_TASK('a promise: pass the function without calling it, as in add(fn, ...args)')
}

/** The error for an `add` without a function: options may come first, so the second argument may be to blame. */
export function refusedAdd (first: unknown, second: unknown): Error {
  return refusedTask(typeof first === 'object' && first !== null && !isPromiseLike(first) ? second : first)
}

/** The error for more than a payload behind a defined task: mostly options in the last place. */
export function refusedArguments (args: readonly unknown[]): Error {
  return new FST_BGT_INVALID_TASK(`${args.length} arguments for a defined task, which takes one payload: options come first, as in add(options, task, payload)`)
}
