import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ServerHttp2Stream } from 'node:http2'
import type { Duplex } from 'node:stream'
import { FST_BGT_TOO_MANY_VIEWERS } from '../shared/errors'
import { clearTimeout, now, setTimeout } from '../shared/timers'
import type { OverviewSource } from './overview'
import type { Overview } from './protocol'

/** Pages that may be open at a time. */
const MAX_VIEWERS = 100
/** Bytes that a page may leave unread. With more it is disconnected, and connects again by itself. */
const MAX_UNREAD_BYTES = 262_144
/** Milliseconds between two looks. */
const INTERVAL_MS = 1_000
/** The rest after a look is at least this many times as long as the look took: all looks together take 1 % of the time. */
const REST_FACTOR = 100

/** Sends text to one page. */
type Stream = FastifyReply['raw']

/**
 * The open pages. All get the same text, made once; while no page is open, no timer runs. Made at registration.
 * A connection has one place until it is closed: a pipelined reply whose turn has not come is not told of the close.
 */
export class Viewers {
  readonly #source: OverviewSource
  readonly #streams = new Map<Duplex, Stream>()
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor (source: OverviewSource) {
    this.#source = source
  }

  /**
   * Sends a page the overview, from now on until its connection is closed.
   * @throws FST_BGT_TOO_MANY_VIEWERS
   */
  add (request: FastifyRequest, reply: FastifyReply): void {
    const connection = connectionOf(request, reply)
    // A second stream on an HTTP/1 connection would wait behind the first for ever.
    if (this.#streams.has(connection)) throw new FST_BGT_TOO_MANY_VIEWERS(1)
    if (this.#streams.size >= MAX_VIEWERS) throw new FST_BGT_TOO_MANY_VIEWERS(MAX_VIEWERS)
    reply.hijack()
    // The client may have left, or the application closed, while a preHandler was deciding.
    if (this.#closed || connection.destroyed) connection.destroy()
    else this.#open(connection, reply.raw)
  }

  #open (connection: Duplex, stream: Stream): void {
    if (this.#streams.size === 0) this.#source.begin()
    // First the other pages: the next overview then begins here for all.
    this.#tell()
    connection.once('close', () => this.#remove(connection))
    stream.on('error', () => {})
    stream.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no', 'x-content-type-options': 'nosniff' })
    stream.write(eventOf(this.#source.whole()))
    this.#streams.set(connection, stream)
    if (this.#streams.size === 1) this.#schedule(INTERVAL_MS)
  }

  #remove (connection: Duplex): void {
    this.#streams.delete(connection)
    if (this.#streams.size !== 0) return
    clearTimeout(this.#timer)
    this.#source.rest()
  }

  #schedule (ms: number): void {
    this.#timer = setTimeout(() => {
      const begin = now()
      this.#tell()
      this.#schedule(Math.max(INTERVAL_MS, (now() - begin) * REST_FACTOR))
    }, ms).unref()
  }

  #tell (): void {
    const event = eventOf(this.#source.next())
    for (const [connection, stream] of this.#streams) {
      if (stream.writableLength > MAX_UNREAD_BYTES) connection.destroy()
      else stream.write(event)
    }
  }

  /** Ends the streams at the close of the application: an open one would hold the server. */
  close (): void {
    this.#closed = true
    clearTimeout(this.#timer)
    for (const stream of this.#streams.values()) stream.end()
  }
}

/** The socket of HTTP/1, which carries one stream at a time; the stream of HTTP/2, which is closed by itself. */
function connectionOf (request: FastifyRequest, reply: FastifyReply): Duplex {
  return (reply.raw as { stream?: ServerHttp2Stream }).stream ?? request.raw.socket
}

function eventOf (overview: Overview): string {
  return `data: ${JSON.stringify(overview)}\n\n`
}
