/** The plugin looks for such tasks every 15 seconds: here, when the test says so. */
export const looks = new Map<NodeJS.Timeout, () => void>()
const { setTimeout: realSetTimeout, clearTimeout: realClearTimeout } = globalThis
globalThis.setTimeout = ((fn: () => void, ms: number, ...args: []) => {
  const timer = realSetTimeout(fn, ms, ...args)
  if (ms === 15_000) looks.set(timer, fn)
  return timer
}) as typeof setTimeout
globalThis.clearTimeout = timer => {
  looks.delete(timer as NodeJS.Timeout)
  realClearTimeout(timer)
}
