import type { FastifyBaseLogger } from 'fastify'
import type { DiScope, TaskContext } from '../../types/definition'
import { withCarrier } from '../observe/propagation'
import { FST_BGT_NO_DI_SCOPE, FST_BGT_UNCLONABLE } from '../shared/errors'
import { received, textOf } from '../shared/show'
import { attemptOver } from '../task/context'
import { loadHandler } from '../task/module'
import { additionOf, ThreadHandle } from './addition'
import { threadLogger } from './logger'
import type { ThreadAbort, ThreadChannelEnd, ThreadEnd, ThreadMessage, ThreadOrder, ThreadRequest } from './messages'
import { decodeThrown, encodeThrown, type Thrown } from './thrown'

/* The code inside a thread: the pool loads this file there, and this file loads the user's module. */

/** The channel to the main thread. */
let channel: ThreadChannelEnd | undefined

interface RunningAttempt {
  readonly number: number
  readonly controller: AbortController
  /** The number of tasks that the handler has added. */
  added: number
}

/** The running attempt; a thread has one at a time. */
let current: RunningAttempt | null = null

/** The last abort: for the running attempt, for one that has ended, or for one that has not arrived yet (by piscina's own channel). */
let lastAbort: ThreadAbort | null = null

/** Called, while the thread waits, with the next request; without one, the thread returns to the pool. */
let onNext: (request?: ThreadRequest) => void

function listen (to: ThreadChannelEnd): void {
  channel?.port.close()
  channel = to
  to.port.on('message', (order: ThreadOrder) => {
    switch (order.type) {
      case 'run': return onNext(order.request)
      case 'return': return onNext()
      case 'abort':
        lastAbort = order
        abort()
    }
  })
}

function abort (): void {
  if (current !== null && current.number === lastAbort?.number) current.controller.abort(decodeThrown(lastAbort.reason))
}

/** Runs an attempt, and those that follow through the channel. The answers go through the channel. */
export default async function run (request: ThreadRequest): Promise<void> {
  if (request.over) return
  if (request.channel !== null) listen(request.channel)
  for (let next: ThreadRequest | undefined = request; next !== undefined;) {
    answer(next, await runAttempt(next))
    if (!next.stays) return
    next = await new Promise<ThreadRequest | undefined>(resolve => { onNext = resolve })
  }
}

async function runAttempt (request: ThreadRequest): Promise<ThreadEnd> {
  const { number, carrier, file, name, payload, timed } = request
  // Piscina keeps a reference to the first request as long as the thread stays: free the payload.
  request.payload = { json: undefined }
  const controller = new AbortController()
  const attempt = current = { number, controller, added: 0 }
  const { port, begun } = channel as ThreadChannelEnd
  Atomics.store(begun, 0, number)
  abort()
  // After the end, a message would count as the next attempt's.
  const post = (message: ThreadMessage) => { if (current === attempt) port.postMessage(message) }
  if (timed) post({ type: 'arrived' })
  let end: ThreadEnd
  try {
    const handler = await loadHandler(name, file)
    // Aborted while the module was loaded.
    controller.signal.throwIfAborted()
    const value = 'value' in payload ? payload.value : payload.json === undefined ? undefined : JSON.parse(payload.json)
    const result = await withCarrier(carrier, () => handler(value, new ThreadContext(request, controller.signal, post, (first, args) => addFor(attempt, name, first, args))))
    end = { type: 'completed', result, added: attempt.added }
  } catch (error) {
    end = { type: 'failed', thrown: encodeThrown(error, controller.signal) }
  }
  current = null
  return end
}

/** Has the main thread add a task. */
function addFor (attempt: RunningAttempt, name: string, first: unknown, args: unknown[]): ThreadHandle {
  const isOver = current !== attempt || (lastAbort?.number === attempt.number && lastAbort.over)
  if (isOver) throw attemptOver(name, attempt.controller.signal.reason)
  const { port, tasks } = channel as ThreadChannelEnd
  const addition = additionOf(tasks, first, args)
  try {
    port.postMessage({ type: 'add', addition } satisfies ThreadMessage)
  } catch (cause) {
    const { task, payload } = addition
    throw new FST_BGT_UNCLONABLE(`The payload of the background task '${task}'`, `${received((payload as { value: unknown }).value)} (${textOf(cause)})`, { cause })
  }
  attempt.added++
  return new ThreadHandle(addition)
}

/**
 * Sends the end of an attempt. Not as piscina's result: that is lost if the thread dies before a busy main thread reads it, and an
 * unclonable one counts as the pool's failure.
 */
function answer ({ number, name, stays }: ThreadRequest, end: ThreadEnd): void {
  const { port } = channel as ThreadChannelEnd
  try {
    port.postMessage(end)
  } catch (cause) {
    const error = new FST_BGT_UNCLONABLE(`The result of the background task '${name}'`, textOf(cause), { cause })
    port.postMessage({ type: 'failed', thrown: encodeThrown(error) })
  }
  // A readable message for an answer that may be unreadable there. A thread that returns needs none: its return is one.
  if (stays && !isSimple(end)) port.postMessage({ type: 'ended', number })
}

/** Whether the main thread can surely read the answer. */
function isSimple (end: ThreadEnd): boolean {
  return end.type === 'completed' && (end.result === null || !/^(object|function|symbol)$/.test(typeof end.result))
}

/** Loads a task's module. Resolves with `null`, or the error. */
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
  readonly add: TaskContext['add']

  constructor ({ id, name, attempt, requestId, level, levels }: ThreadRequest, signal: AbortSignal, post: (message: ThreadMessage) => void, add: (first: unknown, args: unknown[]) => ThreadHandle) {
    this.id = id
    this.name = name
    this.attempt = attempt
    this.requestId = requestId
    this.signal = signal
    this.log = threadLogger(post, level, levels)
    this.progress = value => post({ type: 'progress', value })
    this.add = (first: unknown, ...args: unknown[]) => add(first, args)
  }

  get diScope (): DiScope {
    throw new FST_BGT_NO_DI_SCOPE(this.name)
  }
}
