import type { FastifyReply, FastifyRequest } from 'fastify'
import { awaitHandler, isWatched } from './handler'
import { forgetReply, onReplyEnd, type RawReply, wasAborted } from './raw-reply'

/** The collector of the exchange's request. */
export interface ExchangeListener {
  /** The response has left, or never will: the tasks may start. Called once. */
  exchangeEnded (reply: FastifyReply): void
}

/**
 * A request and its reply, as far as they decide when the tasks start: docs/design.md, "When the tasks of a request start". Made with
 * the collector, watched from the first `add` on, ended by Fastify's `onResponse` hook or the end of the raw reply.
 */
export class Exchange {
  readonly #request: FastifyRequest
  readonly #reply: FastifyReply
  readonly #abortGraceMs: number
  readonly #hasScope: boolean
  #listener: ExchangeListener | null = null
  /** Nothing more will be sent. The handler may still be at work. */
  over = false
  /** With {@link over}: the response had not gone out whole. */
  aborted = false

  /** @param hasScope whether a DI scope has to wait for the handler */
  constructor (request: FastifyRequest, reply: FastifyReply, abortGraceMs: number, hasScope: boolean) {
    this.#request = request
    this.#reply = reply
    this.#abortGraceMs = abortGraceMs
    this.#hasScope = hasScope
  }

  get #raw (): RawReply {
    return this.#reply.raw as unknown as RawReply
  }

  /** To be called once, when the first task has been added. Calls back at once where the exchange is over. */
  watch (listener: ExchangeListener): void {
    this.#listener = listener
    onReplyEnd(this.#raw, this.#request.raw.socket, () => this.end())
  }

  /** Nothing more will be sent. Heard from several sides; the first one counts. */
  end (): void {
    if (this.over || this.#listener === null) return
    const raw = this.#raw
    const listener = this.#listener
    this.over = true
    this.aborted = wasAborted(raw)
    forgetReply(raw, this.#request.raw.socket)
    const ended = () => listener.exchangeEnded(this.#reply)
    // A hijacked reply counts as sent for Fastify, but is no answer.
    if (raw.headersSent || raw.writableEnded || !this.handlerIsWatched) ended()
    else awaitHandler(this.#reply, this.#abortGraceMs, this.#hasScope, ended)
  }

  /** Whether the response is on its way or over. */
  get answered (): boolean {
    return this.over || this.#raw.headersSent || this.#raw.writableEnded
  }

  /** Whether the response has been sent, or never will be. */
  get gone (): boolean {
    return this.over || this.#raw.writableFinished
  }

  /** Whether the plugin has hooks on the request's route. */
  get handlerIsWatched (): boolean {
    return isWatched(this.#request)
  }
}
