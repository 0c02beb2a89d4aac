import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads'
import type { ThreadLease } from './thread-lease'
import type { ThreadChannelEnd, ThreadMessage, ThreadOrder } from './thread-messages'

/** A channel to one thread, which its leases use one after the other: to make one for each would cost more than all else. */
export class ThreadChannel {
  readonly #port: MessagePort
  /** The thread's end, until a request takes it there. */
  #far: ThreadChannelEnd | null
  /** See {@link ThreadChannelEnd.begun}. A message of its own would have to be taken, by a main thread that has other things to do. */
  readonly #begun = new Int32Array(new SharedArrayBuffer(4))
  #lease: ThreadLease | null = null

  constructor () {
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    this.#far = { port: port2, begun: this.#begun }
    port1.on('message', (message: ThreadMessage) => this.#lease?.receive(message))
    // Whether the process stays alive is up to the pool.
    port1.unref()
  }

  /** Whether no lease uses it: the pool may lend a thread anew before it tells of the end of the last lease. */
  get free (): boolean {
    return this.#lease === null
  }

  /** Lets a lease use the channel, until {@link release}. Returns the thread's end if the thread is still without. */
  occupy (lease: ThreadLease): ThreadChannelEnd | null {
    this.#lease = lease
    const far = this.#far
    this.#far = null
    return far
  }

  release (): void {
    this.#lease = null
  }

  /** Whether the thread has begun an attempt. */
  hasBegun (number: number): boolean {
    return Atomics.load(this.#begun, 0) === (number | 0)
  }

  post (order: ThreadOrder, transfer: readonly ArrayBuffer[] = []): void {
    this.#port.postMessage(order, transfer)
  }

  /** Hands the lease what the thread has said and no event has brought yet. What cannot be read is passed over, as events do. */
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

  /** It is not free again: no other lease gets it. */
  close (): void {
    this.#port.close()
  }
}
