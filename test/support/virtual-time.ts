import FakeTimers from '@sinonjs/fake-timers'

/*
 * Time that passes only when a test says so: days of it in a second, the same on a busy machine. Import before the plugin, which keeps
 * the timers that it finds when it is loaded.
 */

const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date'], now: Date.now() })
Object.defineProperty(performance, 'now', { value: () => clock.now, configurable: true })

const real = { setImmediate, clearImmediate }
const immediates = new Set<unknown>()

globalThis.setImmediate = ((callback: (...args: unknown[]) => void, ...args: unknown[]) => {
  const immediate = real.setImmediate(() => {
    immediates.delete(immediate)
    callback(...args)
  })
  immediates.add(immediate)
  return immediate
}) as typeof setImmediate

globalThis.clearImmediate = immediate => {
  immediates.delete(immediate)
  real.clearImmediate(immediate)
}

export function wait (ms: number): Promise<void> {
  return new Promise(resolve => { setTimeout(resolve, ms) })
}

/** Resolves when nothing is left to do without a timer. */
export async function quiet (): Promise<void> {
  do await new Promise(resolve => { real.setImmediate(resolve) }); while (immediates.size !== 0)
}

/** Lets time pass until the next timer is due, and runs that timer. */
export function pass (): void {
  clock.next()
}

/** Forgets all timers. */
export function forgetTimers (): void {
  clock.reset()
}
