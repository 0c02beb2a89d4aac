import type { FastifyReply } from 'fastify'
import type { RequestTasks } from './request-tasks'

/*
 * Holds a reply back while its request's tasks are stored.
 *
 * Fastify takes a reply for unsent until its end is written, and so begins a second one for a handler that sends and then
 * returns, throws or sends again. While a reply is held, its `sent` is `true`, which Fastify has no public means to say: seen in
 * 5.12, where `sent` is a getter of the prototype. What follows is then what Fastify does about a reply that is sent.
 */

/** The callback of an `onSend` hook. */
export type Next = (error?: Error | null, payload?: unknown) => void

/** The members of a streamed payload that show its failure. A stream of an old kind has no `errored`. */
interface Source {
  on (event: 'error', listener: (error: Error) => void): unknown
  errored?: Error | null
}

/** The members that a reply has of its own while it is held. */
const HELD = ['sent', 'hijack', 'trailer', 'then'] as const

/** Node's codes, of HTTP/1 and HTTP/2. */
const HEADERS_SENT: Array<string | undefined> = ['ERR_HTTP_HEADERS_SENT', 'ERR_HTTP2_HEADERS_SENT']

/** The `onSend` hook of a request with tasks that go to a backend. Calls `next` before it returns where nothing is to be stored. */
export function holdReply (tasks: RequestTasks, reply: FastifyReply, payload: unknown, next: Next): void {
  const { durable } = tasks
  if (durable === null) return next(null, payload)
  if (durable.held !== null) {
    // Begun before the first reply was held, which a hook between the two had delayed. The first one stands.
    if (payload !== durable.held.payload) discard(payload)
    return
  }
  const stored = durable.waiting ? durable.store(tasks.outcomeNow(reply)) : null
  if (stored === null) return next(null, payload)
  const restore = keepHead(reply)
  let failure: Error | null = null
  const source = isSource(payload) ? payload : null
  // Fastify listens only when it sends the stream.
  source?.on('error', error => { failure ??= error })
  durable.held = { payload }

  // A promise for Fastify would leave a moment in which the reply is neither held nor sent. The guard is the one that Fastify has
  // around what follows a promise.
  const go = (error: Error | null): void => {
    durable.held = null
    release(reply)
    restore()
    // On HTTP/2 nothing tells Fastify any more that the client has left, and the source would stay open.
    if (tasks.exchange?.over) discard(payload)
    try {
      next(error, tasks.exchange?.over ? null : payload)
    } catch (err) {
      next(err as Error)
    }
  }
  const released = stored.then(() => go(source === null || source.errored != null ? null : failure), error => {
    discard(payload)
    go(error)
  }).catch(error => {
    // An error page that cannot be sent either.
    reply.log.error({ err: error }, 'reply could not be sent')
    reply.raw.destroy()
  })
  hold(tasks, reply, released)
}

/** The reply counts as sent: `hijack()` and `trailer()` come too late, and `await reply` waits for the end. */
function hold (tasks: RequestTasks, reply: FastifyReply, released: Promise<void>): void {
  const members: Pick<FastifyReply, typeof HELD[number]> = {
    sent: true,
    hijack: () => reply,
    trailer: () => reply,
    then: (fulfilled, rejected) => { released.then(() => tasks.exchange?.over ? fulfilled() : reply.then(fulfilled, rejected)) }
  }
  for (const name of HELD) Object.defineProperty(reply, name, { value: members[name], configurable: true })
}

function release (reply: FastifyReply): void {
  for (const name of HELD) Reflect.deleteProperty(reply, name)
}

/** Returns a function that takes back changes of status and headers: after `send` they have no effect without tasks either. */
function keepHead (reply: FastifyReply): () => void {
  const { statusCode } = reply
  // Fastify adds cookies to its array in place.
  const headers = Object.entries(reply.getHeaders()).map(([name, value]) => [name, Array.isArray(value) ? [...value] : value] as const)
  return () => {
    reply.raw.statusCode = statusCode
    const kept = new Map(headers)
    for (const [name, value] of Object.entries(reply.getHeaders())) if (kept.get(name) !== value) reply.removeHeader(name)
    for (const [name, value] of kept) if (reply.getHeader(name) !== value) reply.header(name, value)
  }
}

/** Whether an error is that of a second reply, after one that stands. */
export function isOfSecondReply (reply: FastifyReply, error: { code?: string } | null | undefined): boolean {
  return reply.sent || (reply.raw.headersSent && HEADERS_SENT.includes(error?.code))
}

function isSource (payload: unknown): payload is Source {
  return typeof payload === 'object' && payload !== null && 'pipe' in payload && 'on' in payload && typeof payload.on === 'function'
}

/** Destroys the source of a streamed reply that will not be sent. */
export function discard (payload: unknown): void {
  const { body, destroy, cancel } = (payload ?? {}) as { body?: unknown, destroy?: () => void, cancel?: () => Promise<void> }
  // It may still fail, for instance because its file is missing.
  if (isSource(payload)) payload.on('error', () => {})
  if (typeof destroy === 'function') destroy.call(payload)
  else if (typeof cancel === 'function') cancel.call(payload).catch(() => {})
  // A Response of the fetch standard.
  else if (typeof body === 'object') discard(body)
}
