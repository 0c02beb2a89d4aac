import type { FastifyBaseLogger } from 'fastify'
import type { MessagePort } from 'node:worker_threads'
import { FST_BGT_NO_DI_SCOPE, FST_BGT_UNCLONABLE } from './errors'
import { withCarrier } from './propagation'
import type { DiScope, TaskContext } from './task-context'
import { threadLogger } from './thread-logger'
import type { ThreadAbort, ThreadEnd, ThreadMessage, ThreadRequest } from './thread-messages'
import { loadHandler } from './thread-module'
import { decodeThrown, encodeThrown, type Thrown } from './thrown'

/* What runs inside a thread: the pool loads this file there, and this file loads the user's module. */

/** The channel to the main thread. */
let port: MessagePort | undefined

/** The attempt that is under way; a thread has one at a time. */
let current: { number: number, controller: AbortController } | null = null

/** It may be for an attempt that has ended, or for one that is still on its way, by the pool's own channel. */
let lastAbort: ThreadAbort | null = null

function listen (to: MessagePort): void {
  port?.close()
  port = to
  to.on('message', (message: ThreadAbort) => {
    lastAbort = message
    abort()
  })
}

function abort (): void {
  if (current !== null && current.number === lastAbort?.number) current.controller.abort(decodeThrown(lastAbort.reason))
}

/** Runs one attempt. Does not reject: resolves with how it ended, unless that has gone through the channel. */
export default async function run (request: ThreadRequest): Promise<ThreadEnd | undefined> {
  const { number, carrier, file, name, payload, timed } = request
  if (request.over) return
  if (request.port !== null) listen(request.port)
  const controller = new AbortController()
  const attempt = current = { number, controller }
  abort()
  // What is said after the end would be taken for the next attempt's.
  const post = (message: ThreadMessage) => { if (current === attempt) (port as MessagePort).postMessage(message) }
  if (timed) post({ type: 'arrived' })
  let end: ThreadEnd | undefined
  try {
    const handler = await loadHandler(name, file)
    // Given up while it was loaded: nobody waits for it any more.
    controller.signal.throwIfAborted()
    const value = 'value' in payload ? payload.value : payload.json === undefined ? undefined : JSON.parse(payload.json)
    const result = await withCarrier(carrier, () => handler(value, new ThreadContext(request, controller.signal, post)))
    end = answer(name, result, post)
  } catch (error) {
    end = { type: 'failed', thrown: encodeThrown(error, controller.signal) }
  }
  current = null
  return end
}

/** The pool would take a result that cannot leave the thread for a failure of its own; what is always cloned needs no second message. */
function answer (task: string, result: unknown, post: (message: ThreadMessage) => void): ThreadEnd | undefined {
  const end: ThreadEnd = { type: 'completed', result }
  if (result === null || !/^(object|function|symbol)$/.test(typeof result)) return end
  try {
    post(end)
  } catch (cause) {
    throw new FST_BGT_UNCLONABLE(`The result of the background task '${task}'`, (cause as Error).message, { cause })
  }
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
