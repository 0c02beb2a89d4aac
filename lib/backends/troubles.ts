/** Milliseconds in which one and the same trouble is logged once. */
const LOG_INTERVAL = 10_000

/** What a backend has trouble with, time after time: each is logged when it comes up, and now and then. */
export class Troubles {
  /** When each was logged last. */
  #logged = new Map<string, number>()

  /** Whether a trouble is to be logged now. */
  isNew (trouble: string): boolean {
    const now = Date.now()
    // Some of them name a task: they must not gather.
    this.#logged = new Map([...this.#logged].filter(([, at]) => now - at < LOG_INTERVAL))
    if (this.#logged.has(trouble)) return false
    this.#logged.set(trouble, now)
    return true
  }
}
