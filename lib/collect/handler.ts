import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { setDeadline } from '../shared/deadline'
import { isThenable } from '../shared/promises'
import { kHandled, kWatched } from '../shared/symbols'
import { setImmediate } from '../shared/timers'

/*
 * The end of a request's handler, for an exchange whose client left first. Routes are wrapped, so that the return value is known.
 */

interface Slots {
  [kHandled]: unknown
}

/** In the slot of a request whose handler has not begun: the wait for its end. */
class HandlerWait {
  readonly returned: (result: unknown) => void

  constructor (returned: (result: unknown) => void) {
    this.returned = returned
  }
}

/** Keeps the return value of a route's handler. An onRoute hook. */
export function watchHandler (route: RouteOptions): void {
  const handler = route.handler
  route.handler = function backgroundTasksHandler (request, reply) {
    // @fastify/websocket, when its own wrapper is around this one, calls it with a socket and the request.
    const watched = (kHandled in request ? request : reply) as unknown as Slots | undefined
    const slot = watched?.[kHandled]
    if (slot === undefined) return handler.call(this, request, reply)
    let result: unknown
    try {
      result = handler.call(this, request, reply)
      return result
    } finally {
      watched![kHandled] = result
      if (slot instanceof HandlerWait) slot.returned(result)
    }
  }
  route.config = { ...route.config, [kWatched]: true } as NonNullable<RouteOptions['config']>
}

/** Whether the handler of the request's route is watched. */
export function isWatched (request: FastifyRequest): boolean {
  const { config } = request.routeOptions
  return config !== undefined && kWatched in config
}

/** The return value of the handler; `undefined` for one that has long ended. */
export function handledOf (request: FastifyRequest): unknown {
  return (request as unknown as Slots)[kHandled]
}

/**
 * Calls back when the handler has ended, and after `graceMs` in any case. A handler without a promise counts as ended when it returns.
 * @param hasScope whether a DI scope has to wait for the handler: then, without a promise, until it ends the reply
 */
export function awaitHandler (reply: FastifyReply, graceMs: number, hasScope: boolean, ended: () => void): void {
  const slots = reply.request as unknown as Slots
  let isOver = false
  const end = () => {
    if (isOver) return
    isOver = true
    ended()
  }
  // The timer must not keep a process that has closed its application; the drain has a timer of its own.
  const clearGrace = setDeadline(graceMs, () => {
    slots[kHandled] = undefined
    end()
  }, false)
  // One turn later Fastify has seen the handler's error too, and has called the onError hooks.
  const soon = () => {
    clearGrace()
    setImmediate(end)
  }
  const returned = (result: unknown) => {
    // A reply can be awaited as a promise can, but tells of its end late, or never.
    const hasPromise = result !== reply && isThenable(result)
    // An upgraded connection, such as a WebSocket, has no reply to end.
    if (!hasPromise && hasScope && !(reply.request.raw as { upgrade?: boolean }).upgrade) slots[kHandled] = replyEnded(reply, graceMs)
    if (hasPromise) result.then(soon, soon)
    else soon()
  }
  if (slots[kHandled] === null) {
    slots[kHandled] = new HandlerWait(returned)
    // A hook that answers keeps the handler from beginning.
    onAnswer(reply, soon)
  } else {
    returned(slots[kHandled])
  }
}

/** Resolves when the reply is ended, or after `graceMs`. */
function replyEnded (reply: FastifyReply, graceMs: number): Promise<void> {
  return new Promise(resolve => {
    const clearGrace = setDeadline(graceMs, resolve, false)
    onAnswer(reply, () => {
      clearGrace()
      resolve()
    })
  })
}

/** Calls back when the reply is ended. After the client has left, no event tells of that. */
function onAnswer ({ raw }: FastifyReply, answered: () => void): void {
  const { end } = raw
  raw.end = function (this: unknown, ...args: unknown[]) {
    answered()
    return Reflect.apply(end, this, args)
  } as typeof end
}
