import type { ServerResponse } from 'node:http'
import { FST_BGT_TOO_MANY_VIEWERS } from '../errors'
import type { Snapshot, Source } from './source'

/** How many pages may be open. */
const MAX_VIEWERS = 100
/** Bytes that a page may leave unread. It is dropped then, and comes back when it can read again. */
const MAX_UNREAD = 1_048_576
/** Milliseconds between two looks. */
const INTERVAL = 1_000
/** A look is followed by a rest that is so many times as long as it took: that bounds what all of them can cost. */
const REST = 100

/** The open pages. All are sent the same bytes, made once; while there is none, nothing is made and no timer runs. */
export class Viewers {
  readonly #source: Source
  readonly #streams = new Set<ServerResponse>()
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor (source: Source) {
    this.#source = source
  }

  /**
   * @throws FST_BGT_TOO_MANY_VIEWERS
   */
  admit (): void {
    if (this.#streams.size >= MAX_VIEWERS) throw new FST_BGT_TOO_MANY_VIEWERS(MAX_VIEWERS)
  }

  /** Sends a page what there is, from now on until it is closed. */
  add (stream: ServerResponse): void {
    // It may have left, or the application may have closed, while somebody was deciding whether it may look.
    if (this.#closed || isGone(stream)) {
      stream.destroy()
      return
    }
    // What the others have not been told yet is not for this one to be told twice.
    this.#tell()
    stream.on('close', () => this.#remove(stream))
    stream.on('error', () => {})
    stream.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no', 'x-content-type-options': 'nosniff' })
    stream.write(`retry: 1000\n${eventOf(this.#source.whole())}`)
    this.#streams.add(stream)
    if (this.#streams.size === 1) this.#schedule(INTERVAL)
  }

  #remove (stream: ServerResponse): void {
    this.#streams.delete(stream)
    if (this.#streams.size !== 0) return
    clearTimeout(this.#timer)
    this.#source.rest()
  }

  #schedule (ms: number): void {
    this.#timer = setTimeout(() => {
      const begin = performance.now()
      this.#tell()
      this.#schedule(Math.max(INTERVAL, (performance.now() - begin) * REST))
    }, ms).unref()
  }

  #tell (): void {
    const event = eventOf(this.#source.next())
    for (const stream of this.#streams) {
      if (stream.writableLength > MAX_UNREAD) stream.destroy()
      else stream.write(event)
    }
  }

  /** At the close of the application: an open stream would hold the server. */
  close (): void {
    this.#closed = true
    for (const stream of this.#streams) stream.end()
  }
}

/** Such a stream says nothing of its end any more. */
function isGone (stream: ServerResponse): boolean {
  // What HTTP/2 has in its place has no `destroyed`, but a stream of its own.
  const { destroyed } = (stream as { stream?: { destroyed: boolean } }).stream ?? stream
  return destroyed
}

function eventOf (snapshot: Snapshot): string {
  return `data: ${JSON.stringify(snapshot)}\n\n`
}
