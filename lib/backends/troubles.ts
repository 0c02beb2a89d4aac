import { now } from '../shared/timers'

/** Milliseconds in which the same trouble is logged once. */
const LOG_INTERVAL_MS = 10_000

/** Decides which of a backend's repeated troubles is logged: each at once, and then every ten seconds. */
export class Troubles {
  /** The last log of each trouble, in ms of `now()`. */
  #logged = new Map<string, number>()

  /** Whether a trouble is to be logged now. */
  isNew (trouble: string): boolean {
    const time = now()
    // Forget old ones: some name a task, so there is no end of them.
    this.#logged = new Map([...this.#logged].filter(([, at]) => time - at < LOG_INTERVAL_MS))
    if (this.#logged.has(trouble)) return false
    this.#logged.set(trouble, time)
    return true
  }
}
