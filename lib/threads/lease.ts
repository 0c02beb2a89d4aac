import type { Report } from '../observe/report'
import { clearTimeout, setImmediate, setTimeout } from '../shared/timers'
import type { ThreadAttempt } from './attempt'
import type { ThreadChannel } from './channel'
import type { ThreadAbort, ThreadEnd, ThreadMessage } from './messages'
import { EndOfThread, type ThreadPool } from './pool'

/** Time for a used thread to begin the next attempt, or to return to the pool; after it the thread counts as held. */
const HELD_THREAD_MS = 2_000

/**
 * A thread on loan from the pool, which runs attempts one after the other; ends when the thread is returned or has ended. Only the first
 * attempt goes through the pool, the others through the channel: docs/design.md, "Worker threads".
 */
export class ThreadLease {
  readonly #pool: ThreadPool
  readonly #report: Report
  readonly #onReturned: (attempt: ThreadAttempt) => void
  readonly #end = new EndOfThread()
  /** The channel to the thread; `null` until the pool has chosen one. */
  #channel: ThreadChannel | null = null
  #isBorrowed = false
  /** Whether another attempt has run on the thread before. */
  #isUsed = false
  /** The attempt that runs. */
  #attempt: ThreadAttempt | null = null
  /** Whether the thread waits for another attempt after this one. */
  #stays!: boolean
  /** Called with `true` when the thread waits for another attempt, and with `false` when the lease is over. */
  #onFree: ((stays: boolean) => void) | null = null
  #isOver = false
  /** The number of orders sent to the thread. */
  #orders = 0
  /** One timer for all orders: refreshing it is cheap. */
  readonly #heldTimer = setTimeout(() => {
    const orders = this.#orders
    // The thread's messages come first: they may have arrived while the main thread was busy.
    setImmediate(() => { if (orders === this.#orders) this.#endHeldThread() })
  }, HELD_THREAD_MS)

  /** @param onReturned called with an attempt that can run on another thread: this one ended before it began the attempt */
  constructor (pool: ThreadPool, report: Report, onReturned: (attempt: ThreadAttempt) => void) {
    this.#pool = pool
    this.#report = report
    this.#onReturned = onReturned
  }

  /**
   * Runs an attempt. Does not reject.
   * @param stays whether the thread shall wait for another attempt afterwards
   * @returns whether the thread waits; if not, the lease is over
   */
  runAttempt (attempt: ThreadAttempt, stays: boolean): Promise<boolean> {
    this.#attempt = attempt
    this.#stays = stays
    this.#expectAnswer()
    attempt.startOn(this)
    return new Promise(resolve => {
      this.#onFree = resolve
      if (this.#isBorrowed) this.#send(attempt)
      else this.#borrow()
    })
  }

  /** Keeps no reference to the first attempt: the lease may last as long as the application has load. */
  async #borrow (): Promise<void> {
    this.#isBorrowed = true
    try {
      await this.#askPool()
      this.#receiveLast()
      this.#channel?.release()
      this.#attempt?.ended(undefined)
    } catch (error) {
      this.#receiveLast()
      // The thread may be alive, and without its end of the channel.
      this.#channel?.close()
      this.#threadLost(error)
    }
    this.#attempt = null
    this.#isOver = true
    clearTimeout(this.#heldTimer)
    this.#onFree?.(false)
  }

  #askPool (): Promise<void> {
    const attempt = this.#attempt as ThreadAttempt
    return this.#pool.lend(this, attempt.request(this.#stays), attempt.transfer, this.#end)
  }

  #send (attempt: ThreadAttempt): void {
    this.#isUsed = true
    try {
      this.#channel?.post({ type: 'run', request: attempt.request(this.#stays) }, attempt.transfer)
    } catch (error) {
      this.#attempt = null
      attempt.died(error)
      this.#onFree?.(true)
    }
  }

  /** Called when the lease is over: handles the messages that the thread sent before. */
  #receiveLast (): void {
    this.#stays = false
    this.#channel?.receiveAll()
  }

  #threadLost (error: unknown): void {
    const attempt = this.#attempt
    if (attempt !== null && !this.#canReturn(attempt)) return attempt.died(this.#end.aborted ? this.#end.reason : error)
    // The failure is not the waiting attempt's: report it as the thread's.
    if (!this.#end.aborted && !this.#pool.closed) this.#report.threadEnded(error)
    if (attempt !== null) this.#onReturned(attempt)
  }

  #canReturn (attempt: ThreadAttempt): boolean {
    return this.#isUnbegun(attempt) && !attempt.aborted && attempt.transfer.length === 0
  }

  /** `false` on a new thread: where no thread can start, the attempt would be retried without end. */
  #isUnbegun (attempt: ThreadAttempt): boolean {
    return this.#isUsed && this.#channel?.hasBegun(attempt.number) === false
  }

  /** Returns a waiting thread to the pool. Resolves when the pool has it, or it has ended. */
  returnThread (): Promise<boolean> {
    this.#channel?.post({ type: 'return' })
    this.#expectAnswer()
    return new Promise(resolve => { this.#onFree = resolve })
  }

  #expectAnswer (): void {
    this.#orders++
    this.#heldTimer.refresh()
  }

  /** Terminates a thread that leftover work of an ended task holds, an endless loop for instance. */
  #endHeldThread (): void {
    const attempt = this.#attempt
    if (this.#isOver || (attempt !== null && !this.#isUnbegun(attempt))) return
    const error = new Error(`what a task has left behind has held it for ${HELD_THREAD_MS} ms`)
    this.#report.threadEnded(error)
    this.terminate(error)
  }

  /** Whether the first attempt must not begin any more. Piscina keeps its request if it could make no thread for it. */
  get over (): boolean {
    return this.#attempt === null || this.#attempt.aborted
  }

  /** Called by the pool when it has chosen a thread, before it sends the first attempt. */
  assigned (channel: ThreadChannel, isUsed: boolean): void {
    this.#channel = channel
    this.#isUsed = isUsed
    this.#expectAnswer()
  }

  /** Sends an abort to the thread, if the lease has one already. */
  abort (message: ThreadAbort): void {
    this.#channel?.post(message)
  }

  /** Terminates the thread, and with it the attempt. */
  terminate (reason: unknown): void {
    this.#end.abort(reason)
  }

  /** Called when a thread failed with no task on it: if that may be the thread that was started for this lease, the attempt fails. */
  threadFailed (error: Error): void {
    if (this.#channel === null) this.terminate(error)
  }

  /** Handles a message of the thread. */
  receive (message: ThreadMessage): void {
    const attempt = this.#attempt
    if (message.type === 'completed' || message.type === 'failed') this.#attemptEnded(message)
    else if (message.type !== 'ended') attempt?.runInAsyncScope(attempt.receive, attempt, message)
    else if (attempt?.number === message.number) this.#attemptEnded(undefined)
  }

  #attemptEnded (end: ThreadEnd | undefined): void {
    const attempt = this.#attempt
    this.#attempt = null
    // Send the next attempt first: the thread is idle until then.
    if (this.#stays) this.#onFree?.(true)
    else this.#expectAnswer()
    attempt?.ended(end)
  }
}
