import type { AsyncResource } from 'node:async_hooks'

/** `context.runInAsyncScope(fn, undefined, ...args)`: with up to three arguments without a spread, which is slow. */
export function runInScope (context: AsyncResource, fn: (...args: any[]) => unknown, args: unknown[]): unknown {
  switch (args.length) {
    case 0: return context.runInAsyncScope(fn)
    case 1: return context.runInAsyncScope(fn, undefined, args[0])
    case 2: return context.runInAsyncScope(fn, undefined, args[0], args[1])
    case 3: return context.runInAsyncScope(fn, undefined, args[0], args[1], args[2])
    default: return context.runInAsyncScope(fn, undefined, ...args)
  }
}
