import type { ConsumeMessage, Options } from 'amqplib'
import { hostname } from 'node:os'
import type { StoredTask } from '../../../types/backend'
import { isShort, OWN_HEADER, ownOf, signatures, TRACE_HEADERS, type Incoming, type Layout, type OwnFields, type Signature } from './incoming'

/*
 * How a task is a message of Celery's protocol, version 2: https://docs.celeryq.dev/en/stable/internals/protocol.html
 */

/** A message as it is published. */
export interface Outgoing {
  queue: string
  content: Buffer
  /** The correlation id is that of the task. */
  properties: Options.Publish & { correlationId: string }
}

const ORIGIN = `${process.pid}@${hostname()}`

/** A time as Celery writes it, `2026-11-29T11:02:31.525000+00:00`: it reads six digits, as the digits are microseconds to it (5.2). */
export function isoTime (ms: number): string {
  return new Date(Math.ceil(ms)).toISOString().replace('Z', '000+00:00')
}

function layoutOf (payload: string | null, singleArgument: boolean): Layout {
  if (payload === null) return 'none'
  if (singleArgument) return 'single'
  if (payload.startsWith('{')) return 'keyword'
  return payload.startsWith('[') ? 'positional' : 'single'
}

/** JSON text of the arguments: payloads are JSON text, and stay what they are. */
function bodyOf (payload: string | null, layout: Layout): Buffer {
  const args = layout === 'positional' ? payload : layout === 'single' ? `[${payload}]` : '[]'
  const kwargs = layout === 'keyword' ? payload : '{}'
  return Buffer.from(`[${args}, ${kwargs}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`)
}

/**
 * A task as a message. Headers that the protocol makes optional, and that would say what is usual, are left out: each costs on the way.
 * @param singleArgument whether the payload is one positional argument, whatever it is
 */
export function messageOf (task: StoredTask, queue: string, singleArgument: boolean, now: number): Outgoing {
  const { id, name, label, payload, requestId, attempts, backoff, delay, timeout, carrier } = task
  const layout = layoutOf(payload, singleArgument)
  const own: OwnFields = { layout, attempts }
  const headers: Record<string, unknown> = { lang: 'js', task: name, id, root_id: id, parent_id: null, group: null }
  if (label !== name) headers.shadow = own.label = label
  if (requestId !== null) own.requestId = requestId
  if (backoff !== null) own.backoff = backoff
  if (delay !== 0) headers.eta = isoTime(now + delay)
  if (timeout !== 0) {
    own.timeout = timeout
    // Celery's soft limit raises an error inside the task, as a timeout here aborts its signal.
    headers.timelimit = [null, timeout / 1_000]
  }
  if (carrier !== null) {
    own.carrier = carrier
    for (const name of TRACE_HEADERS) headers[name] = carrier[name]
  }
  headers[OWN_HEADER] = JSON.stringify(own)
  return outgoing(queue, id, bodyOf(payload, layout), headers)
}

function outgoing (queue: string, id: string, content: Buffer, headers: Record<string, unknown>): Outgoing {
  return {
    queue,
    content,
    properties: { mandatory: true, persistent: true, contentType: 'application/json', contentEncoding: 'utf-8', correlationId: id, priority: 0, headers }
  }
}

/** A message for the step that follows a task, which has returned `result` as JSON text. */
export function followUp (step: Signature, result: string, { task, rootId }: Incoming, chain: Signature[], queueOf: (name: string) => string, newId: () => string): Outgoing {
  const { args = [], kwargs = {}, options = {}, immutable = false } = step
  const id = isShort(options.task_id) ? options.task_id : newId()
  const before = immutable ? args : [JSON.parse(result), ...args]
  const links = { callbacks: listOrNull(options.link), errbacks: listOrNull(options.link_error), chain: chain.length === 0 ? null : chain, chord: options.chord ?? null }
  return outgoing(isShort(options.queue) ? options.queue : queueOf(step.task), id, Buffer.from(JSON.stringify([before, kwargs, links])), {
    lang: 'js',
    task: step.task,
    id,
    root_id: rootId,
    parent_id: task.id,
    group: options.group_id ?? null,
    shadow: null,
    eta: typeof options.countdown === 'number' ? isoTime(Date.now() + options.countdown * 1_000) : options.eta ?? null,
    expires: null,
    retries: 0,
    timelimit: [options.time_limit ?? null, options.soft_time_limit ?? null],
    origin: ORIGIN,
    ignore_result: options.ignore_result === true
  })
}

function listOrNull (value: unknown): unknown[] | null {
  const list = signatures(value)
  return list.length === 0 ? null : list
}

/** The same message, to be handed out again. It goes behind what the queue has by then. */
export function copyOf ({ content, properties }: ConsumeMessage, queue: string, changes: { retries?: number, eta?: number, crashes?: number }): Outgoing {
  // The broker checks a user id against the connection's own; copies must go to no other queue; a count of deliveries begins anew.
  const { userId: _userId, headers = {}, ...others } = properties
  const { CC: _cc, BCC: _bcc, 'x-delivery-count': _count, ...kept } = headers
  const { crashes, retries, eta } = changes
  const own = { ...ownOf(headers), ...(crashes !== undefined && { crashes }) }
  return {
    queue,
    content,
    properties: {
      ...others as Options.Publish,
      mandatory: true,
      persistent: true,
      correlationId: String(headers.id),
      headers: {
        ...kept,
        ...(retries !== undefined && { retries }),
        ...(eta !== undefined && { eta: isoTime(eta) }),
        [OWN_HEADER]: JSON.stringify(own)
      }
    }
  }
}
