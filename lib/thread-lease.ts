import type { Report } from './report'
import type { ThreadAttempt } from './thread-attempt'
import type { ThreadChannel } from './thread-channel'
import type { ThreadAbort, ThreadEnd, ThreadMessage } from './thread-messages'
import { EndOfThread, type ThreadPool } from './thread-pool'

/**
 * A thread that the pool has lent. Attempts run on it one after the other, until it is given back or has ended: the second one,
 * and those after it, go to the thread through its channel, since the pool would take as long again.
 */
export class ThreadLease {
  readonly #pool: ThreadPool
  readonly #report: Report
  readonly #end = new EndOfThread()
  /** To the thread that the pool has chosen. */
  #channel: ThreadChannel | null = null
  #isBegun = false
  /** The one that runs. */
  #attempt: ThreadAttempt | null = null
  /** It has come through the channel. */
  #isSent = false
  /** Whether the thread waits for another one after it. */
  #stays = false
  /** Called when the thread does that, or when the lease is over. */
  #onFree: (stays: boolean) => void = () => {}
  /** One that was sent to a thread which ended before it began it: it can run on another. */
  unbegun: ThreadAttempt | undefined

  constructor (pool: ThreadPool, report: Report) {
    this.#pool = pool
    this.#report = report
  }

  /**
   * Runs an attempt.
   * @param stays whether the thread is to wait for another one after it
   * @returns whether it does; if not, the lease is over
   */
  run (attempt: ThreadAttempt, stays: boolean): Promise<boolean> {
    this.#attempt = attempt
    this.#stays = stays
    attempt.begin(this)
    return new Promise(resolve => {
      this.#onFree = resolve
      if (this.#isBegun) this.#send(attempt)
      else this.#begin(attempt)
    })
  }

  async #begin (attempt: ThreadAttempt): Promise<void> {
    this.#isBegun = true
    try {
      const answer = await this.#pool.run(this, attempt.request(this.#stays), attempt.transfer, this.#end)
      this.#hearOut()
      this.#channel?.release()
      if (answer === undefined) this.#attempt?.died(undefined)
      else this.#attempt?.ended(answer)
    } catch (error) {
      this.#hearOut()
      // The thread may live, and not have been given its end of the channel.
      this.#channel?.close()
      this.#lost(error)
    }
    this.#attempt = null
    this.#onFree(false)
  }

  #send (attempt: ThreadAttempt): void {
    this.#isSent = true
    try {
      this.#channel?.post({ type: 'run', request: attempt.request(this.#stays) }, attempt.transfer)
    } catch (error) {
      this.#attempt = null
      attempt.died(error)
      this.#onFree(true)
    }
  }

  /** The lease is over. What the thread has said, it has said before that. */
  #hearOut (): void {
    this.#stays = false
    this.#channel?.receiveAll()
  }

  #lost (error: unknown): void {
    const attempt = this.#attempt
    if (attempt !== null && !this.#canMove(attempt)) return attempt.died(this.#end.aborted ? this.#end.reason : error)
    this.unbegun = attempt ?? undefined
    // Not a task's failure, but somebody's.
    if (!this.#pool.closed) this.#report.threadEnded(error)
  }

  /** Not the first one: else a thread that cannot start would be tried without end. */
  #canMove (attempt: ThreadAttempt): boolean {
    return this.#isSent && !attempt.aborted && attempt.transfer.length === 0 && this.#channel?.hasBegun(attempt.number) === false
  }

  /** Gives a thread that waits back to the pool. Resolves when it is there. */
  giveBack (): Promise<boolean> {
    return new Promise(resolve => {
      this.#onFree = resolve
      this.#channel?.post({ type: 'leave' })
    })
  }

  /** Whether nothing of it is to begin any more. The pool keeps it all the same if no thread could be made for it. */
  get over (): boolean {
    return this.#attempt === null || this.#attempt.aborted
  }

  /** The pool has chosen a thread, and is about to hand it the first attempt. */
  assigned (channel: ThreadChannel): void {
    this.#channel = channel
  }

  /** Tells the thread, if there is one yet, that the attempt is to stop. */
  abort (message: ThreadAbort): void {
    this.#channel?.post(message)
  }

  /** Ends the thread, and with it the attempt, for a reason. */
  end (reason: unknown): void {
    this.#end.abort(reason)
  }

  /** A thread has failed with no task on it: the attempt fails, if that may have been the thread that was started for it. */
  threadFailed (error: Error): void {
    if (this.#channel === null) this.end(error)
  }

  /** Takes what the thread says. */
  receive (message: ThreadMessage): void {
    const attempt = this.#attempt
    if (message.type === 'completed' || message.type === 'failed') this.#ended(message)
    // In the async context of the attempt, not in that of the one which made the channel.
    else attempt?.runInAsyncScope(attempt.receive, attempt, message)
  }

  #ended (end: ThreadEnd): void {
    const attempt = this.#attempt
    this.#attempt = null
    // First, since the thread does nothing meanwhile.
    if (this.#stays) this.#onFree(true)
    attempt?.ended(end)
  }
}
