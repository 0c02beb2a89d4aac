import type { FastifyRequest, RouteOptions } from 'fastify'
import type { ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { setDeadline } from './deadline'
import { isThenable } from './executor'
import type { Outcome } from './outcome'
import type { RequestTasks } from './request-tasks'
import { kHandled, kWatched } from './symbols'

/*
 * When the tasks of a request may start: once its response has left, exactly once, however that came about.
 *
 * Fastify's `onResponse` hook alone cannot tell. It does not fire for an HTTP/1 client that left or a stream that broke,
 * nor behind another plugin's hook that fails or never calls `done`; on HTTP/2 it fires for a cancelled stream while the
 * handler still runs. So the first `add` of a request listens to the end of the raw reply, which is what Fastify's hook
 * follows too. A request without tasks is not listened to at all.
 *
 * The first end to be seen counts. If the response had begun by then, the tasks start. If the client left before, the
 * handler may still be about to add tasks, or to fail: its promise tells, which is why routes are wrapped.
 */

/** The parts of the replies of node:http and node:http2 that tell how an exchange stands. */
interface RawReply extends NodeJS.EventEmitter {
  readonly socket: Socket | null
  readonly stream?: ServerHttp2Stream
  readonly headersSent: boolean
  readonly writableEnded: boolean
  readonly writableFinished: boolean
  readonly destroyed: boolean
}

interface WatchedRequest {
  [kHandled]: unknown
}

/**
 * Keeps what the handler of a route returns, for {@link watchExchange}. An onRoute hook.
 */
export function watchHandler (route: RouteOptions): void {
  const handler = route.handler
  route.handler = function backgroundTasksHandler (request, reply) {
    const waiting = (request as unknown as WatchedRequest)[kHandled] as RequestTasks | null | undefined
    // @fastify/websocket, when its own wrapper is around this one, calls it with a socket for a request.
    if (waiting === undefined) return handler.call(this, request, reply)
    let result: unknown
    try {
      result = handler.call(this, request, reply)
      return result
    } finally {
      (request as unknown as WatchedRequest)[kHandled] = result
      if (waiting !== null) waiting.onHandled?.(result)
    }
  }
  route.config = { ...route.config, [kWatched]: true } as NonNullable<RouteOptions['config']>
}

/** Calls `tasks.start` with the outcome once the exchange is over. */
export function watchExchange (tasks: RequestTasks): void {
  const raw = tasks.reply.raw as unknown as RawReply
  const socket = tasks.request.raw.socket
  if (raw.stream !== undefined) watchStream(tasks, raw, raw.stream)
  else if (raw.destroyed || raw.writableFinished || (raw.socket === null && socket.destroyed)) exchangeOver(tasks)
  else {
    raw.on('close', () => exchangeOver(tasks))
    // A pipelined request whose turn has not come: its reply hears nothing of the connection.
    if (raw.socket === null) watchSocket(tasks, socket)
  }
}

function watchStream (tasks: RequestTasks, raw: RawReply, stream: ServerHttp2Stream): void {
  if (stream.destroyed || stream.closed) return exchangeOver(tasks)
  raw.on('close', () => exchangeOver(tasks))
  // 'close' waits for the upload too, which a handler that answers early leaves open.
  raw.on('finish', () => { if (raw.writableEnded) exchangeOver(tasks) })
}

/** The collectors that wait for a connection: one listener serves all of them, however many requests are pipelined. */
const waitingForSocket = new WeakMap<Socket, Set<RequestTasks>>()

function watchSocket (tasks: RequestTasks, socket: Socket): void {
  let waiting = waitingForSocket.get(socket)
  if (waiting === undefined) {
    const all = waiting = new Set()
    waitingForSocket.set(socket, waiting)
    socket.once('close', () => all.forEach(exchangeOver))
  }
  waiting.add(tasks)
  tasks.socket = socket
}

/** Nothing more will be sent. Heard from several sides; the first one counts. */
function exchangeOver (tasks: RequestTasks): void {
  if (tasks.over) return
  const { reply, request } = tasks
  tasks.over = true
  tasks.aborted = wasAborted(reply.raw as unknown as RawReply)
  if (tasks.socket !== null) waitingForSocket.get(tasks.socket)?.delete(tasks)
  if (reply.raw.headersSent || reply.sent || !isWatched(request)) start(tasks)
  else awaitHandler(tasks)
}

function isWatched (request: FastifyRequest): boolean {
  const { config } = request.routeOptions
  return config !== undefined && kWatched in config
}

/** The client left first: waits until the handler has settled, but not for ever. */
function awaitHandler (tasks: RequestTasks): void {
  const slot = tasks.request as unknown as WatchedRequest
  const settled = () => {
    if (tasks.onHandled === null) return
    tasks.onHandled = null
    start(tasks)
  }
  // It must not keep a process that has closed its application; the drain has a timer of its own.
  const clearGrace = setDeadline(tasks.runtime.options.abortGrace, settled, false)
  tasks.onHandled = result => {
    // One turn later Fastify has seen the handler's error too, and has called the onError hooks. A handler that returns
    // nothing may still answer through `reply`, or never: there is no telling, and nobody left to answer.
    const soon = () => {
      clearGrace()
      setImmediate(settled)
    }
    if (isThenable(result)) result.then(soon, soon)
    else soon()
  }
  if (slot[kHandled] === null) {
    slot[kHandled] = tasks
    watchAnswer(tasks)
  } else {
    tasks.onHandled(slot[kHandled])
  }
}

/** A hook that answers, to a client that has left, keeps the handler from beginning: only the end of the reply tells. */
function watchAnswer (tasks: RequestTasks): void {
  const { raw } = tasks.reply
  const { end } = raw
  raw.end = function (this: unknown, ...args: unknown[]) {
    tasks.onHandled?.(undefined)
    return Reflect.apply(end, this, args)
  } as typeof end
}

function start (tasks: RequestTasks): void {
  tasks.start(outcomeOf(tasks))
}

function outcomeOf ({ reply, error, aborted }: RequestTasks): Outcome {
  return { statusCode: reply.statusCode, error, aborted }
}

/** To be asked when the exchange is over: a handler that answers a client long gone would change the reply's account. */
function wasAborted (raw: RawReply): boolean {
  if (!raw.writableEnded) return true
  if (raw.stream !== undefined) return raw.stream.rstCode !== 0
  // node:http takes a finished reply off its socket.
  return raw.socket === null ? !raw.writableFinished : raw.socket.destroyed
}
