import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads'
import type { ThreadAttempt } from './thread-attempt'
import type { ThreadAbort, ThreadMessage } from './thread-messages'

/** A channel to one thread, which its attempts use one after the other: to make one for each would cost more than all else. */
export class ThreadChannel {
  readonly #port: MessagePort
  /** The thread's end, until a request takes it there. */
  #far: MessagePort | null
  #attempt: ThreadAttempt | null = null

  /** @param onClose called when it has been closed, or the thread has ended */
  constructor (onClose: (channel: ThreadChannel) => void) {
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    this.#far = port2
    port1.on('message', (message: ThreadMessage) => {
      const attempt = this.#attempt
      // In the async context of the attempt, not in that of the one which made the channel.
      attempt?.runInAsyncScope(attempt.receive, attempt, message)
    })
    port1.on('close', () => onClose(this))
    // Whether the process stays alive is up to the pool.
    port1.unref()
  }

  /** Whether an attempt uses it: the pool may hand a thread the next one before it tells of the end of the last. */
  get taken (): boolean {
    return this.#attempt !== null
  }

  /** Lets an attempt use the channel, until {@link release}. Returns the thread's end if the thread is still without. */
  occupy (attempt: ThreadAttempt): MessagePort | null {
    this.#attempt = attempt
    const far = this.#far
    this.#far = null
    return far
  }

  release (): void {
    this.#attempt = null
  }

  post (message: ThreadAbort): void {
    this.#port.postMessage(message)
  }

  /** Hands the attempt what the thread has said and no event has brought yet. */
  receiveAll (): void {
    for (let next = receiveMessageOnPort(this.#port); next !== undefined; next = receiveMessageOnPort(this.#port)) this.#attempt?.receive(next.message)
  }

  /** It stays taken, so that no other attempt gets it. */
  close (): void {
    this.#port.close()
  }
}
