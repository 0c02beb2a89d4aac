/** Stores the progress of one attempt: one write at a time, always of the last value. Made with its delivery, and ended with it. */
export class Progress {
  readonly #write: (value: unknown) => Promise<void>
  readonly #failed: (error: unknown) => void
  /** The last value that is not stored yet, as JSON: the user may change the object meanwhile. */
  #waiting: string | null = null
  #writing: Promise<void> | null = null
  #ended = false

  /**
   * @param failed told of the error of a value that could not be stored; later values are still tried
   */
  constructor (write: (value: unknown) => Promise<void>, failed: (error: unknown) => void) {
    this.#write = write
    this.#failed = failed
  }

  set (value: unknown): void {
    // After the end of an attempt the next one may be under way.
    if (this.#ended) return
    try {
      this.#waiting = JSON.stringify(value) ?? 'null'
    } catch (error) {
      return this.#failed(error)
    }
    this.#writing ??= this.#writeWaiting()
  }

  async #writeWaiting (): Promise<void> {
    while (this.#waiting !== null) {
      const value = JSON.parse(this.#waiting)
      this.#waiting = null
      await this.#write(value).catch(this.#failed)
    }
    this.#writing = null
  }

  /** Takes no more values, and resolves when the last one is stored. */
  async end (): Promise<void> {
    this.#ended = true
    await this.#writing
  }
}
