import { setLongTimeout } from '../../shared/deadline'
import type { HeldMessage } from './held-message'
import type { MessageEnds } from './message-ends'

/** The time for which a message is kept that needs a thread while none is free; then another worker may have it. */
const ASIDE_MS = 5_000

/** The most messages that are put aside, to reach those behind them. */
const MAX_ASIDE = 100

/** The most messages that are kept for later. Their payloads are in the memory of this process. */
const MAX_LATER = 50_000

/**
 * The time for which a message is kept before it is published anew. RabbitMQ closes a channel that has not acknowledged one for 30
 * minutes: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
 */
const MAX_KEEP_MS = 600_000

/** Messages that a worker has without running them. Made with the worker, emptied when its connection is lost or it closes. */
export class Shelf {
  readonly #ends: MessageEnds
  /** Not due yet, or not known here. */
  readonly #later = new Set<HeldMessage>()
  /** Due, but without a place; in the order in which they came. */
  readonly #aside = new Set<HeldMessage>()

  constructor (ends: MessageEnds) {
    this.#ends = ends
  }

  get isFull (): boolean {
    return this.#aside.size >= MAX_ASIDE || this.#later.size >= MAX_LATER
  }

  get aside (): ReadonlySet<HeldMessage> {
    return this.#aside
  }

  /** All messages, those that were put aside first. */
  get all (): HeldMessage[] {
    return [...this.#aside, ...this.#later]
  }

  find (id: string): HeldMessage | undefined {
    return this.all.find(({ task }) => task.id === id)
  }

  /** Keeps a message for so many ms. */
  keep (held: HeldMessage, ms: number, then: () => void): void {
    this.#later.add(held)
    const shown = Math.min(ms, MAX_KEEP_MS)
    this.#arm(held, shown, shown < ms ? () => this.#ends.return(held) : then)
  }

  /** Puts a message aside until there is a place for it. */
  putAside (held: HeldMessage): void {
    this.#aside.add(held)
  }

  /** Begins to count the time of a message that is still aside: at its end it may go to another worker. */
  limit (held: HeldMessage): void {
    if (this.#aside.has(held)) this.#arm(held, ASIDE_MS, () => this.#ends.return(held))
  }

  #arm (held: HeldMessage, ms: number, then: () => void): void {
    held.clearTimer = setLongTimeout(ms, () => {
      this.take(held)
      then()
    }, false)
  }

  /** Removes a message. */
  take (held: HeldMessage): void {
    held.clearTimer?.()
    this.#later.delete(held)
    this.#aside.delete(held)
  }

  /** Removes all messages, and returns them. */
  clear (): HeldMessage[] {
    const { all } = this
    for (const held of all) this.take(held)
    return all
  }
}
