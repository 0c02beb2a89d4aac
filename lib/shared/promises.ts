import { types } from 'node:util'

const { then } = Promise.prototype

/** Whether a value has a method `then`. Throws what a user's getter or proxy throws. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return value !== null && (typeof value === 'object' || typeof value === 'function') &&
    typeof (value as PromiseLike<unknown>).then === 'function'
}

/** A native promise, which calls back once and asynchronously. Any other thenable is wrapped. */
export function asPromise (value: PromiseLike<unknown>): Promise<unknown> {
  return value.then === then && value.constructor === Promise ? value as Promise<unknown> : new Promise(resolve => { resolve(value) })
}

/** Handles the rejection of a promise that `add` refused: its caller cannot, and an unhandled one ends the process. */
export function ignoreRejection (value: unknown): void {
  if (types.isPromise(value)) value.catch(() => {})
}
