import { MAX_TIMER_MS } from './check-options'
import { clearImmediate, clearTimeout, setImmediate, setTimeout } from './timers'

type Timers = Pick<typeof globalThis, 'clearTimeout' | 'setTimeout'>

const OWN_TIMERS: Timers = { clearTimeout, setTimeout }

/**
 * Like `setTimeout`, but lets pending I/O run first: after a blocked event loop, Node runs due timers before it polls for events.
 * @param ms any number, also a negative one; a wait above {@link MAX_TIMER_MS} takes several timers
 * @param keepsProcess whether the timer keeps the process alive
 * @returns a function that clears the deadline
 */
export function setDeadline (ms: number, missed: () => void, keepsProcess = true, timers = OWN_TIMERS): () => void {
  let immediate: NodeJS.Immediate | undefined
  const clearTimer = setLongTimeout(ms, () => { immediate = setImmediate(missed) }, keepsProcess, timers)
  return () => {
    clearTimer()
    clearImmediate(immediate)
  }
}

/** {@link setDeadline} by the global timers, which a test may fake: for a task's own times. */
export function setTaskDeadline (ms: number, missed: () => void): () => void {
  return setDeadline(ms, missed, true, globalThis)
}

/**
 * {@link setLongTimeout} by the global timers, which a test may fake: for a task's own times.
 * @returns a function that clears the timer, even after the global timers have been replaced
 */
export function setTaskTimeout (callback: () => void, ms: number): () => void {
  return setLongTimeout(ms, callback, true, globalThis)
}

/**
 * `setTimeout` for any number of ms: Node's own calls back at once for more than 24.8 days, and warns of a negative number. Returns a
 * function that clears it.
 */
export function setLongTimeout (ms: number, callback: () => void, keepsProcess = true, { clearTimeout, setTimeout } = OWN_TIMERS): () => void {
  let timer: NodeJS.Timeout
  const wait = (left: number) => {
    timer = left > MAX_TIMER_MS ? setTimeout(wait, MAX_TIMER_MS, left - MAX_TIMER_MS) : setTimeout(callback, left)
    if (!keepsProcess) timer.unref()
  }
  wait(Math.max(ms, 0))
  return () => clearTimeout(timer)
}

/** The result of a promise; rejects after so many ms. */
export async function within<T> (ms: number, promise: Promise<T>): Promise<T> {
  let clear!: () => void
  const tooLate = new Promise<never>((_resolve, reject) => {
    clear = setDeadline(ms, () => reject(new Error(`no answer within ${ms} ms`)))
  })
  try {
    return await Promise.race([promise, tooLate])
  } finally {
    clear()
  }
}
