import { setLongTimeout } from './deadline'

/** Timers stand still while a machine sleeps, and know nothing of a clock that is set: an alarm is late by this at most. */
const LOOK_INTERVAL_MS = 60_000

/**
 * Rings when the clock shows a time, and not before: a timer may be early by a millisecond. By the global timers, which a test may fake, and
 * without keeping the process alive.
 */
export class Alarm {
  readonly #ring: () => void
  #clearTimer: (() => void) | null = null

  constructor (ring: () => void) {
    this.#ring = ring
  }

  /** @param time in ms of `Date.now()`; `Infinity` for never. Replaces the time set before. */
  set (time: number): void {
    this.clear()
    if (time === Infinity) return
    this.#clearTimer = setLongTimeout(Math.min(time - Date.now(), LOOK_INTERVAL_MS), () => {
      if (Date.now() < time) this.set(time)
      else this.#ring()
    }, false, globalThis)
  }

  clear (): void {
    this.#clearTimer?.()
    this.#clearTimer = null
  }
}
