import { now } from '../shared/timers'

/** Milliseconds for which tasks may hold the thread before the event loop turns once. */
const SLICE_MS = 10

/** The clock is read after every task; while tasks are shorter than this, after every eighth. */
const SHORT_MS = 0.05
const MAX_UNCHECKED = 8

/** The time that tasks have until the event loop turns. */
export class Slice {
  #end = 0
  #lastCheck = 0
  #checkEvery = 1
  #untilCheck = 1

  begin (): void {
    this.#lastCheck = now()
    this.#end = this.#lastCheck + SLICE_MS
    this.#checkEvery = this.#untilCheck = 1
  }

  /** To be called before each task. */
  isOver (): boolean {
    if (--this.#untilCheck >= 0) return false
    const time = now()
    const short = time - this.#lastCheck < SHORT_MS * this.#checkEvery
    this.#checkEvery = short ? Math.min(this.#checkEvery * 2, MAX_UNCHECKED) : 1
    this.#untilCheck = this.#checkEvery - 1
    this.#lastCheck = time
    return time >= this.#end
  }
}
