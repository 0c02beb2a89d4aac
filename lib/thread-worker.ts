import type { FastifyBaseLogger } from 'fastify'
import { FST_BGT_NO_DI_SCOPE, FST_BGT_UNCLONABLE } from './errors'
import { withCarrier } from './propagation'
import { textOf } from './received'
import type { DiScope, TaskContext } from './task-context'
import { threadLogger } from './thread-logger'
import type { ThreadAbort, ThreadChannelEnd, ThreadEnd, ThreadMessage, ThreadOrder, ThreadRequest } from './thread-messages'
import { loadHandler } from './thread-module'
import { decodeThrown, encodeThrown, type Thrown } from './thrown'

/* What runs inside a thread: the pool loads this file there, and this file loads the user's module. */

/** To the main thread. */
let channel: ThreadChannelEnd | undefined

/** The attempt that is under way; a thread has one at a time. */
let current: { number: number, controller: AbortController } | null = null

/** It may be for an attempt that has ended, or for one that is still on its way, by the pool's own channel. */
let lastAbort: ThreadAbort | null = null

/** Called with what to run next, while the thread waits for that; without any, when it is the pool's again. */
let onNext: (request?: ThreadRequest) => void

function listen (to: ThreadChannelEnd): void {
  channel?.port.close()
  channel = to
  to.port.on('message', (order: ThreadOrder) => {
    switch (order.type) {
      case 'run': return onNext(order.request)
      case 'leave': return onNext()
      case 'abort':
        lastAbort = order
        abort()
    }
  })
}

function abort (): void {
  if (current !== null && current.number === lastAbort?.number) current.controller.abort(decodeThrown(lastAbort.reason))
}

/** Runs an attempt, and those that follow it through the channel, which tells how each ended. */
export default async function run (request: ThreadRequest): Promise<void> {
  if (request.over) return
  if (request.channel !== null) listen(request.channel)
  for (let next: ThreadRequest | undefined = request; next !== undefined;) {
    answer(next, await attempt(next))
    if (!next.stays) return
    next = await new Promise<ThreadRequest | undefined>(resolve => { onNext = resolve })
  }
}

async function attempt (request: ThreadRequest): Promise<ThreadEnd> {
  const { number, carrier, file, name, payload, timed } = request
  // The pool's own part of the thread keeps the first request as long as the thread stays.
  request.payload = { json: undefined }
  const controller = new AbortController()
  const attempt = current = { number, controller }
  const { port, begun } = channel as ThreadChannelEnd
  Atomics.store(begun, 0, number)
  abort()
  // What is said after the end would be taken for the next attempt's.
  const post = (message: ThreadMessage) => { if (current === attempt) port.postMessage(message) }
  if (timed) post({ type: 'arrived' })
  let end: ThreadEnd
  try {
    const handler = await loadHandler(name, file)
    // Given up while it was loaded: nobody waits for it any more.
    controller.signal.throwIfAborted()
    const value = 'value' in payload ? payload.value : payload.json === undefined ? undefined : JSON.parse(payload.json)
    const result = await withCarrier(carrier, () => handler(value, new ThreadContext(request, controller.signal, post)))
    end = { type: 'completed', result }
  } catch (error) {
    end = { type: 'failed', thrown: encodeThrown(error, controller.signal) }
  }
  current = null
  return end
}

/**
 * Says how an attempt ended. The thread's return to the pool could tell, too, but not if the thread dies before the main thread,
 * being busy, has heard of it; and the pool would take a result that cannot leave the thread for a failure of its own.
 */
function answer ({ number, name, stays }: ThreadRequest, end: ThreadEnd): void {
  const { port } = channel as ThreadChannelEnd
  try {
    port.postMessage(end)
  } catch (cause) {
    const error = new FST_BGT_UNCLONABLE(`The result of the background task '${name}'`, textOf(cause), { cause })
    port.postMessage({ type: 'failed', thrown: encodeThrown(error) })
  }
  // Where the thread is returned, that is the word which can be read in any case.
  if (stays && !isSimple(end)) port.postMessage({ type: 'ended', number })
}

/** Whether it can be read in any case. */
function isSimple (end: ThreadEnd): boolean {
  return end.type === 'completed' && (end.result === null || !/^(object|function|symbol)$/.test(typeof end.result))
}

/** Whether a task could run here: `null`, or why not. */
export async function check ({ name, file }: { name: string, file: string }): Promise<Thrown | null> {
  try {
    await loadHandler(name, file)
    return null
  } catch (error) {
    return encodeThrown(error)
  }
}

class ThreadContext implements TaskContext {
  readonly id: string
  readonly name: string
  readonly attempt: number
  readonly requestId: string | null
  readonly signal: AbortSignal
  readonly log: FastifyBaseLogger
  readonly progress: (value: unknown) => void

  constructor ({ id, name, attempt, requestId, level, levels }: ThreadRequest, signal: AbortSignal, post: (message: ThreadMessage) => void) {
    this.id = id
    this.name = name
    this.attempt = attempt
    this.requestId = requestId
    this.signal = signal
    this.log = threadLogger(post, level, levels)
    this.progress = value => post({ type: 'progress', value })
  }

  get diScope (): DiScope {
    throw new FST_BGT_NO_DI_SCOPE(this.name)
  }
}
