import type { Report } from './report'
import type { ThreadAttempt } from './thread-attempt'
import type { ThreadChannel } from './thread-channel'
import type { ThreadAbort, ThreadEnd, ThreadMessage } from './thread-messages'
import { EndOfThread, type ThreadPool } from './thread-pool'

/** Milliseconds that a thread which has been used has to take and begin what it is sent, or to go back to the pool. */
const LEFTOVER_WAIT = 2_000

/**
 * A thread that the pool has lent. Attempts run on it one after the other, until it is given back or has ended: the second one,
 * and those after it, go to the thread through its channel, since the pool would take as long again.
 */
export class ThreadLease {
  readonly #pool: ThreadPool
  readonly #report: Report
  readonly #onReturned: (attempt: ThreadAttempt) => void
  readonly #end = new EndOfThread()
  /** To the thread that the pool has chosen. */
  #channel: ThreadChannel | null = null
  #isAsked = false
  /** Whether others have run on the thread before. */
  #isUsed = false
  /** The one that runs. */
  #attempt: ThreadAttempt | null = null
  /** Whether the thread waits for another one after it. */
  #stays = false
  /** Called with `true` when the thread waits for another attempt, and with `false` when the lease is over. */
  #onFree: ((stays: boolean) => void) | null = null
  #isOver = false
  /** Times that the thread has been asked for something. */
  #asked = 0
  /** One timer for all, since setting it anew costs next to nothing. */
  readonly #leftovers = setTimeout(() => {
    const asked = this.#asked
    // What the thread has said while the main thread was busy comes first.
    setImmediate(() => { if (asked === this.#asked) this.#endHeldThread() })
  }, LEFTOVER_WAIT)

  /** @param onReturned called with an attempt that the thread has not begun when it ended, and that can run on another one */
  constructor (pool: ThreadPool, report: Report, onReturned: (attempt: ThreadAttempt) => void) {
    this.#pool = pool
    this.#report = report
    this.#onReturned = onReturned
  }

  /**
   * Runs an attempt. Does not reject.
   * @param stays whether the thread is to wait for another one after it
   * @returns whether it does; if not, the lease is over
   */
  run (attempt: ThreadAttempt, stays: boolean): Promise<boolean> {
    this.#attempt = attempt
    this.#stays = stays
    this.#expectAnswer()
    attempt.startsOn(this)
    return new Promise(resolve => {
      this.#onFree = resolve
      if (this.#isAsked) this.#send(attempt)
      else this.#borrow()
    })
  }

  /** Holds nothing of the first attempt while it waits: the lease may last as long as the load does. */
  async #borrow (): Promise<void> {
    this.#isAsked = true
    try {
      await this.#askPool()
      this.#receiveLast()
      this.#channel?.release()
      this.#attempt?.ended(undefined)
    } catch (error) {
      this.#receiveLast()
      // The thread may live, and not have been given its end of the channel.
      this.#channel?.close()
      this.#threadLost(error)
    }
    this.#attempt = null
    this.#isOver = true
    clearTimeout(this.#leftovers)
    this.#onFree?.(false)
  }

  #askPool (): Promise<void> {
    const attempt = this.#attempt as ThreadAttempt
    return this.#pool.run(this, attempt.request(this.#stays), attempt.transfer, this.#end)
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

  /** The lease is over: nobody stays. What else the thread has said, it has said before that. */
  #receiveLast (): void {
    this.#stays = false
    this.#channel?.receiveAll()
  }

  #threadLost (error: unknown): void {
    const attempt = this.#attempt
    if (attempt !== null && !this.#canReturn(attempt)) return attempt.died(this.#end.aborted ? this.#end.reason : error)
    // Not a task's failure, but somebody's.
    if (!this.#end.aborted && !this.#pool.closed) this.#report.threadEnded(error)
    if (attempt !== null) this.#onReturned(attempt)
  }

  #canReturn (attempt: ThreadAttempt): boolean {
    return this.#isUnbegun(attempt) && !attempt.aborted && attempt.transfer.length === 0
  }

  /** Not if the thread is new: where none can start, each attempt would be tried without end. */
  #isUnbegun (attempt: ThreadAttempt): boolean {
    return this.#isUsed && this.#channel?.hasBegun(attempt.number) === false
  }

  /** Gives a thread that waits back to the pool. Resolves when it is there, or has ended. */
  giveBack (): Promise<boolean> {
    this.#channel?.post({ type: 'leave' })
    this.#expectAnswer()
    return new Promise(resolve => { this.#onFree = resolve })
  }

  #expectAnswer (): void {
    this.#asked++
    this.#leftovers.refresh()
  }

  /** What a task has left behind, an endless loop for instance, would keep a thread from all others. */
  #endHeldThread (): void {
    const attempt = this.#attempt
    if (this.#isOver || (attempt !== null && !this.#isUnbegun(attempt))) return
    const error = new Error(`what a task has left behind has held it for ${LEFTOVER_WAIT} ms`)
    this.#report.threadEnded(error)
    this.endThread(error)
  }

  /** Whether nothing of it is to begin any more. The pool keeps it all the same if no thread could be made for it. */
  get over (): boolean {
    return this.#attempt === null || this.#attempt.aborted
  }

  /** The pool has chosen a thread, and is about to hand it the first attempt. */
  assigned (channel: ThreadChannel, isUsed: boolean): void {
    this.#channel = channel
    this.#isUsed = isUsed
    this.#expectAnswer()
  }

  /** Tells the thread, if there is one yet, that the attempt is to stop. */
  abort (message: ThreadAbort): void {
    this.#channel?.post(message)
  }

  /** Ends the thread, and with it the attempt, for a reason. */
  endThread (reason: unknown): void {
    this.#end.abort(reason)
  }

  /** A thread has failed with no task on it: the attempt fails, if that may have been the thread that was started for it. */
  threadFailed (error: Error): void {
    if (this.#channel === null) this.endThread(error)
  }

  /** Takes what the thread says. */
  receive (message: ThreadMessage): void {
    const attempt = this.#attempt
    if (message.type === 'completed' || message.type === 'failed') this.#attemptEnded(message)
    else if (message.type !== 'ended') attempt?.runInAsyncScope(attempt.receive, attempt, message)
    else if (attempt?.number === message.number) this.#attemptEnded(undefined)
  }

  #attemptEnded (end: ThreadEnd | undefined): void {
    const attempt = this.#attempt
    this.#attempt = null
    // First, since the thread does nothing meanwhile.
    if (this.#stays) this.#onFree?.(true)
    else this.#expectAnswer()
    attempt?.ended(end)
  }
}
