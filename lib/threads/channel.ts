import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads'
import type { ThreadChannelEnd, ThreadMessage, ThreadOrder } from './messages'

/** The user of a channel: a lease. */
export interface ChannelUser {
  receive (message: ThreadMessage): void
}

/** A channel to one thread. Made by the pool, used by the thread's leases in turn, since a channel is slow to make; ends with the thread. */
export class ThreadChannel {
  readonly #port: MessagePort
  /** The thread's end; `null` once a request has carried it to the thread. */
  #threadEnd: ThreadChannelEnd | null
  /** See {@link ThreadChannelEnd.begun}. Shared memory, not a message: a busy main thread can read it at once. */
  readonly #begun = new Int32Array(new SharedArrayBuffer(4))
  #lease: ChannelUser | null = null

  /**
   * @param tasks see {@link ThreadChannelEnd.tasks}
   * @param onClosed called when the thread has ended, or after {@link close}
   */
  constructor (tasks: ReadonlyMap<string, boolean>, onClosed: () => void) {
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    this.#threadEnd = { port: port2, begun: this.#begun, tasks }
    port1.on('message', (message: ThreadMessage) => this.#lease?.receive(message))
    port1.on('close', onClosed)
    // The pool alone decides whether the process stays alive.
    port1.unref()
  }

  /** Whether no lease uses the channel: the pool may lend a thread again before it reports the end of the last lease. */
  get free (): boolean {
    return this.#lease === null
  }

  /** Gives the channel to a lease, until {@link release}. Returns the thread's end if the thread does not have it yet. */
  occupy (lease: ChannelUser): ThreadChannelEnd | null {
    this.#lease = lease
    const end = this.#threadEnd
    this.#threadEnd = null
    return end
  }

  release (): void {
    this.#lease = null
  }

  /** Whether the attempt with this number is the last that the thread has begun. */
  hasBegun (number: number): boolean {
    return Atomics.load(this.#begun, 0) === (number | 0)
  }

  post (order: ThreadOrder, transfer: readonly ArrayBuffer[] = []): void {
    this.#port.postMessage(order, transfer)
  }

  /** Hands the lease, without waiting for events, all messages that have arrived. Unreadable ones are skipped, as events skip them. */
  receiveAll (): void {
    for (;;) {
      let next
      try {
        next = receiveMessageOnPort(this.#port)
      } catch {
        continue
      }
      if (next === undefined) return
      this.#lease?.receive(next.message)
    }
  }

  /** Closes the channel for good: it never becomes {@link free} again. */
  close (): void {
    this.#port.close()
  }
}
