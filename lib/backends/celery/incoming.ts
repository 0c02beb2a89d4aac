import type { ConsumeMessage } from 'amqplib'
import { textUpTo } from '../../shared/check-options'
import { received } from '../../shared/show'
import type { BackoffOptions } from '../../../types/task'
import type { StoredTask, TaskDefaults } from '../../../types/backend'

/*
 * How a message of Celery's protocol, version 2, is a task: https://docs.celeryq.dev/en/stable/internals/protocol.html
 */

/** The header of this package: what Celery has no place for. JSON, so that it comes back as it went. */
export const OWN_HEADER = 'fastify-background-tasks'

/** How a payload was laid out, so that it comes back as it was. */
export type Layout = 'none' | 'keyword' | 'positional' | 'single'

/** The content of the plugin's own header. */
export interface OwnFields {
  layout?: Layout
  label?: string
  requestId?: string
  attempts?: number
  backoff?: Required<BackoffOptions>
  timeout?: number
  carrier?: Record<string, string>
  /** How many workers went away with the message. */
  crashes?: number
}

/** A step that follows a task, as Celery writes its signatures down. */
export interface Signature {
  task: string
  args?: unknown[]
  kwargs?: Record<string, unknown>
  options?: Record<string, unknown>
  immutable?: boolean
  subtask_type?: string | null
}

/** A message that has been read. */
export interface Incoming {
  readonly task: StoredTask
  /** Attempts made before this one. */
  readonly retries: number
  readonly crashes: number
  /** Milliseconds of `Date.now()` before which it is not to begin, and after which it is not to begin any more. */
  readonly eta: number | null
  readonly expires: number | null
  readonly ignoreResult: boolean
  readonly rootId: string
  readonly callbacks: Signature[]
  /** The last one is the next step. */
  readonly chain: Signature[]
}

/** Headers of traces, which Celery's instrumentation reads from the message itself. */
export const TRACE_HEADERS = ['traceparent', 'tracestate', 'baggage']

const [, SHORT] = textUpTo(255)

/** Another program may have written the header. */
export function ownOf (headers: Record<string, unknown>): OwnFields {
  try {
    const own = JSON.parse(String(headers[OWN_HEADER] ?? '{}')) as OwnFields
    return typeof own === 'object' && own !== null ? own : {}
  } catch {
    return {}
  }
}

/** A message that cannot be run, and as much of it as could be read. */
export class UnusableMessage extends Error {
  readonly id: string | null
  readonly task: string

  constructor (flaw: string, { headers }: ConsumeMessage['properties']) {
    super(`the message cannot be used: ${flaw}`)
    this.id = textOr(headers?.id, '') || null
    this.task = textOr(headers?.task, '')
  }
}

/**
 * Reads a message.
 * @throws UnusableMessage
 */
export function readMessage ({ content, properties }: ConsumeMessage, defaultsOf: (name: string) => TaskDefaults | undefined): Incoming {
  const { contentType, contentEncoding, headers = {} } = properties
  const refuse = (flaw: string) => new UnusableMessage(flaw, properties)
  if (typeof headers.task !== 'string' || !isShort(headers.id)) throw refuse("it has no headers 'task' and 'id', as those of Celery's protocol 2 have")
  if (contentType !== 'application/json') throw refuse(`its content type is ${received(contentType)}, and must be 'application/json'`)
  if (!/^utf-?8$/i.test(contentEncoding ?? 'utf-8') || typeof headers.compression === 'string') throw refuse(`it is compressed, or encoded as ${received(headers.compression ?? contentEncoding)}`)
  let body: unknown
  try {
    body = JSON.parse(content.toString())
  } catch (error) {
    throw refuse(`it is not JSON (${(error as Error).message})`)
  }
  const [args, kwargs, embed] = Array.isArray(body) ? body as unknown[] : []
  if (!Array.isArray(args) || !isObject(kwargs)) throw refuse(`it is no list of arguments and keyword arguments, received ${received(body)}`)
  const own = ownOf(headers)
  const defaults = defaultsOf(headers.task)
  const { callbacks, chain } = isObject(embed) ? embed : {} as Record<string, unknown>
  const id = headers.id
  return {
    task: {
      id,
      name: headers.task,
      label: textOr(own.label, textOr(headers.shadow, headers.task)),
      payload: payloadOf(args, kwargs, own.layout),
      requestId: textOr(own.requestId, '') || null,
      attempts: numberOr(own.attempts, defaults?.attempts ?? 1),
      // Celery's messages have no place for it: what the definition says counts for those.
      backoff: own.attempts === undefined ? defaults?.backoff ?? null : own.backoff ?? null,
      delay: 0,
      timeout: own.attempts === undefined ? timeLimit(headers.timelimit) ?? defaults?.timeout ?? 0 : numberOr(own.timeout, 0),
      dedupe: null,
      carrier: isObject(own.carrier) ? own.carrier as Record<string, string> : foreignCarrier(headers)
    },
    retries: numberOr(headers.retries, 0),
    crashes: numberOr(own.crashes, 0),
    eta: timeOf(headers.eta),
    expires: timeOf(headers.expires),
    ignoreResult: headers.ignore_result === true,
    rootId: textOr(headers.root_id, id),
    callbacks: signatures(callbacks),
    chain: signatures(chain)
  }
}

/** JSON text. Keyword arguments alone are an object; one positional argument is the payload itself; several are an array. */
function payloadOf (args: unknown[], kwargs: Record<string, unknown>, layout: Layout | undefined): string | null {
  if (layout === 'positional') return JSON.stringify(args)
  if (layout === 'keyword') return JSON.stringify(kwargs)
  const hasKeywords = Object.keys(kwargs).length !== 0
  if (args.length === 0) return hasKeywords ? JSON.stringify(kwargs) : null
  if (args.length === 1 && !hasKeywords) return JSON.stringify(args[0])
  return JSON.stringify(hasKeywords ? [...args, kwargs] : args)
}

function foreignCarrier (headers: Record<string, unknown>): Record<string, string> | null {
  const carrier = Object.entries(headers).filter(([name, value]) => TRACE_HEADERS.includes(name) && typeof value === 'string')
  return carrier.length === 0 ? null : Object.fromEntries(carrier) as Record<string, string>
}

/** Celery's hard and soft limits, in seconds: the shorter one in ms. */
function timeLimit (value: unknown): number | null {
  const limits = Array.isArray(value) ? value.filter(limit => typeof limit === 'number' && limit > 0) as number[] : []
  return limits.length === 0 ? null : Math.min(...limits) * 1_000
}

/** In ms, rounded up: Python writes microseconds. It leaves out the time zone where that is UTC by configuration. */
function timeOf (value: unknown): number | null {
  if (typeof value !== 'string') return null
  const time = Date.parse(/(Z|[+-]\d\d:?\d\d)$/.test(value) ? value : `${value}Z`)
  if (Number.isNaN(time)) return null
  return /\.\d{3}\d*[1-9]/.test(value) ? time + 1 : time
}

export function signatures (value: unknown): Signature[] {
  return (Array.isArray(value) ? value : [value]).filter(step => isObject(step) && typeof step.task === 'string') as Signature[]
}

function isObject (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Whether a value can be a short string of AMQP, as a queue or a correlation id is. */
export function isShort (value: unknown): value is string {
  return SHORT(value)
}

function textOr (value: unknown, other: string): string {
  return typeof value === 'string' ? value : other
}

function numberOr (value: unknown, other: number): number {
  return typeof value === 'number' && value >= 0 ? value : other
}
