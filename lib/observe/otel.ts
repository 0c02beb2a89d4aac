import {
  context, diag, metrics, propagation as propagator, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace,
  type Attributes, type Context, type Counter, type Histogram, type Meter, type MeterProvider, type Span, type Tracer,
  type TracerProvider, type UpDownCounter
} from '@opentelemetry/api'
import type { Channel, ChannelListener } from 'node:diagnostics_channel'
import { abandonChannel, addChannel, dropChannel, retryChannel, runChannel, settleChannel } from './channels'
import { propagation, setPropagation, type Propagation } from './propagation'
import { isError, received } from '../shared/show'
import { now } from '../shared/timers'
import type { AbandonMessage, Carrier, DropMessage, RetryMessage, RunMessage, SettleMessage, TaskMessage } from '../../types/messages'
import type { TaskHandle } from '../../types/task'

/** The options of {@link BackgroundTasksInstrumentation}. */
export interface BackgroundTasksInstrumentationConfig {
  /**
   * Whether the constructor calls `enable`.
   * @default true
   */
  enabled?: boolean
  /**
   * Whether each attempt begins a new trace, linked to the request's. Otherwise its span is a child in the request's trace, with the
   * same link.
   * @default false
   */
  separateTraces?: boolean
}

const NAME = 'fastify-background-tasks'
const { version: VERSION } = require('fastify-background-tasks/package.json') as { version: string }

/** Carrier field of a stored task: the time of its `add`, in ms since 1970. */
const ADDED_FIELD = 'fastify-background-tasks-added'

/** As in https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/. */
const BUCKETS_S = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]

/** Telemetry of a task that is not settled. */
interface TracedTask {
  /** Time of the `add`, in ms since 1970; `null` if unknown. */
  readonly added: number | null
  /** The active context at the call of `add`. */
  readonly context: Context
  /** `null` for a task that another process added. */
  readonly requestId: string | null
  /** The span of the hand-over to the backend. */
  send: Span | null
  attempt: AttemptRecord | null
  /** The reason of a drop. */
  reason: string | null
}

interface AttemptRecord {
  readonly span: Span
  readonly context: Context
  /** By the clock {@link now}. */
  readonly begin: number
}

interface Instruments {
  readonly added: Counter
  readonly settled: Counter
  readonly retries: Counter
  readonly abandoned: Counter
  readonly inFlight: UpDownCounter
  readonly queueTime: Histogram
  readonly runTime: Histogram
}

/**
 * Traces and measures tasks with OpenTelemetry, for all applications of the process. Has the interface that `registerInstrumentations` and
 * `NodeSDK` expect, and works without them too.
 */
export class BackgroundTasksInstrumentation {
  readonly instrumentationName = NAME
  readonly instrumentationVersion = VERSION
  #config: BackgroundTasksInstrumentationConfig
  #enabled = false
  #givenTracer: Tracer | null = null
  #givenMeter: Meter | null = null
  #givenInstruments: Instruments | null = null
  #tasks = new WeakMap<TaskHandle, TracedTask>()
  /** Runs counted as in flight, each with its counter: the meter provider may change before a run ends. */
  readonly #inFlight = new Map<RunMessage, UpDownCounter>()
  readonly #openSpans = new Set<Span>()
  readonly #subscriptions: Array<[Channel, ChannelListener]> = [
    [addChannel, listener<TaskMessage>(message => this.#added(message))],
    [dropChannel, listener<DropMessage>(message => this.#dropped(message))],
    [retryChannel, listener<RetryMessage>(message => this.#retried(message))],
    [abandonChannel, listener<AbandonMessage>(message => this.#abandoned(message))],
    [settleChannel, listener<SettleMessage>(message => this.#settled(message))],
    [runChannel.start, listener<RunMessage>(message => this.#started(message))],
    [runChannel.end, listener<RunMessage>(message => { if (!message.async) this.#ended(message) })],
    [runChannel.asyncEnd, listener<RunMessage>(message => this.#ended(message))]
  ]

  constructor (config: BackgroundTasksInstrumentationConfig = {}) {
    this.#config = config
    if (config.enabled !== false) this.enable()
  }

  enable (): void {
    if (this.#enabled) return
    this.#enabled = true
    setPropagation(this.#propagation)
    for (const [channel, listener] of this.#subscriptions) channel.subscribe(listener)
  }

  /** Stops. Running tasks are no longer counted as in flight, and their spans end now. */
  disable (): void {
    if (!this.#enabled) return
    this.#enabled = false
    if (propagation() === this.#propagation) setPropagation(null)
    for (const [channel, listener] of this.#subscriptions) channel.unsubscribe(listener)
    for (const message of this.#inFlight.keys()) guarded(() => this.#ended(message))
    for (const span of this.#openSpans) guarded(() => this.#endSpan(span))
    this.#tasks = new WeakMap()
  }

  /** Replaces the global tracer provider. */
  setTracerProvider (tracerProvider: TracerProvider): void {
    this.#givenTracer = tracerProvider.getTracer(NAME, VERSION)
  }

  /** Replaces the global meter provider, which is otherwise read when the first task is added. */
  setMeterProvider (meterProvider: MeterProvider): void {
    this.#givenMeter = meterProvider.getMeter(NAME, VERSION)
    this.#givenInstruments = null
  }

  setConfig (config: BackgroundTasksInstrumentationConfig): void {
    this.#config = config
  }

  getConfig (): BackgroundTasksInstrumentationConfig {
    return this.#config
  }

  get #tracer (): Tracer {
    this.#givenTracer ??= trace.getTracer(NAME, VERSION)
    return this.#givenTracer
  }

  get #instruments (): Instruments {
    this.#givenInstruments ??= createInstruments(this.#givenMeter ?? metrics.getMeter(NAME, VERSION))
    return this.#givenInstruments
  }

  readonly #propagation: Propagation = {
    inject: task => {
      const carrier: Carrier = {}
      guarded(() => {
        // Start the span first: the carrier must hold it as the parent.
        const send = task === null ? undefined : guarded(() => this.#handedOver(task, carrier))
        propagator.inject(send === undefined ? context.active() : trace.setSpan(context.active(), send), carrier)
      })
      return carrier
    },

    refused: (task, error) => guarded(() => {
      const record = this.#tasks.get(task)
      const send = record?.send ?? null
      if (send === null) return
      record!.send = null
      recordFailure(send, error)
      this.#endSpan(send)
    }),

    extract: (carrier, fn) => within(() => propagator.extract(ROOT_CONTEXT, carrier), fn),

    run: (task, fn) => {
      // `null` if a subscriber of `start` has cancelled the task.
      const attempt = this.#tasks.get(task)?.attempt ?? null
      return attempt === null ? fn() : within(() => attempt.context, fn)
    }
  }

  #added ({ task, id, name, requestId }: TaskMessage): void {
    this.#tasks.set(task, { added: Date.now(), context: context.active(), requestId, send: null, attempt: null, reason: null })
    this.#instruments.added.add(1, metricAttributes(name))
    const span = trace.getActiveSpan()
    // After the request, its span has ended.
    if (span?.isRecording() === true) span.addEvent('background task added', { 'messaging.destination.name': name, 'messaging.message.id': id })
  }

  #handedOver (task: TaskHandle, carrier: Carrier): Span | undefined {
    const record = this.#tasks.get(task)
    // Added before `enable`.
    if (record === undefined) return undefined
    carrier[ADDED_FIELD] = String(record.added)
    record.send = this.#tracer.startSpan(`send ${task.name}`, {
      kind: SpanKind.PRODUCER,
      attributes: spanAttributes('send', 'send', { name: task.name, id: task.id, requestId: record.requestId })
    }, record.context)
    this.#openSpans.add(record.send)
    return record.send
  }

  #started (message: RunMessage): void {
    const { task, name, attempt, carrier } = message
    const record = this.#tasks.get(task) ?? foreignTask(carrier)
    this.#tasks.set(task, record)
    const { inFlight } = this.#instruments
    this.#inFlight.set(message, inFlight)
    inFlight.add(1, metricAttributes(name))
    if (attempt === 1 && record.added !== null) {
      // The clocks of two machines may differ.
      this.#instruments.queueTime.record(Math.max(Date.now() - record.added, 0) / 1_000, metricAttributes(name))
    }
    const origin = trace.getSpanContext(record.context)
    const span = this.#tracer.startSpan(`process ${name}`, {
      kind: SpanKind.CONSUMER,
      root: this.#config.separateTraces === true,
      links: origin === undefined ? [] : [{ context: origin }],
      attributes: { ...spanAttributes('process', 'process', message), 'background_task.attempt': attempt }
    }, record.context)
    this.#openSpans.add(span)
    record.attempt = { span, context: trace.setSpan(record.context, span), begin: now() }
  }

  #ended (message: RunMessage): void {
    const inFlight = this.#inFlight.get(message)
    this.#inFlight.delete(message)
    inFlight?.add(-1, metricAttributes(message.name))
  }

  #endSpan (span: Span): void {
    this.#openSpans.delete(span)
    span.end()
  }

  #abandoned ({ task, name }: AbandonMessage): void {
    this.#instruments.abandoned.add(1, metricAttributes(name))
    this.#tasks.get(task)?.attempt?.span.addEvent('background task abandoned')
  }

  #retried ({ task, name, error }: RetryMessage): void {
    this.#instruments.retries.add(1, metricAttributes(name))
    const record = this.#tasks.get(task)
    const attempt = record?.attempt ?? null
    if (attempt === null) return
    record!.attempt = null
    this.#endAttempt(attempt, name, 'retried', error)
  }

  #dropped ({ task, reason }: DropMessage): void {
    const record = this.#tasks.get(task)
    if (record !== undefined) record.reason = reason
  }

  #settled (message: SettleMessage): void {
    const { task, name, state, error } = message
    this.#instruments.settled.add(1, { ...metricAttributes(name), 'background_task.state': state })
    const record = this.#tasks.get(task)
    if (record === undefined) return
    this.#tasks.delete(task)
    if (record.send !== null) {
      record.send.setAttribute('background_task.outcome', state)
      this.#endSpan(record.send)
    }
    if (record.attempt !== null) this.#endAttempt(record.attempt, name, state, error)
    else if (state !== 'stored') this.#settledUnrun(record, message)
  }

  #endAttempt ({ span, begin }: AttemptRecord, name: string, outcome: string, error: unknown): void {
    const failed = outcome === 'failed' || outcome === 'retried'
    this.#instruments.runTime.record((now() - begin) / 1_000, {
      ...metricAttributes(name),
      'messaging.system': NAME,
      'messaging.operation.name': 'process',
      ...(failed && { 'error.type': shapeOf(error).type })
    })
    span.setAttribute('background_task.outcome', outcome)
    if (failed) recordFailure(span, error)
    this.#endSpan(span)
  }

  /** Adds a span of no length for a task that never began; its end would be visible nowhere else. */
  #settledUnrun ({ context, reason }: TracedTask, message: SettleMessage): void {
    const { name, state, error } = message
    const span = this.#tracer.startSpan(`${state} ${name}`, {
      attributes: {
        ...spanAttributes(state, 'settle', message),
        'background_task.outcome': state,
        ...(reason !== null && { 'background_task.reason': reason })
      }
    }, context)
    if (state === 'failed') recordFailure(span, error)
    span.end()
  }
}

/** Runs telemetry code. Its errors go to OpenTelemetry's diagnostic log, not to the application. */
function guarded<T> (action: () => T): T | undefined {
  try {
    return action()
  } catch (error) {
    try {
      diag.error(`${NAME}: the telemetry has failed`, error)
    } catch {
      // The diagnostic logger failed too.
    }
    return undefined
  }
}

function listener<Message> (listen: (message: Message) => void): ChannelListener {
  return message => { guarded(() => listen(message as Message)) }
}

/** Calls a function of the application exactly once, in a context if the telemetry can provide it. */
function within<T> (contextOf: () => Context, fn: () => T): T {
  let end = fn
  guarded(() => context.with(contextOf(), () => {
    try {
      const result = fn()
      end = () => result
    } catch (error) {
      end = () => { throw error }
    }
  }))
  return end()
}

/** The record of a task that another process stored, or that was added before `enable`. */
function foreignTask (carrier: Carrier | null): TracedTask {
  const added = carrier?.[ADDED_FIELD]
  return {
    added: added === undefined ? null : Number(added),
    context: carrier === null ? context.active() : guarded(() => propagator.extract(ROOT_CONTEXT, carrier)) ?? ROOT_CONTEXT,
    requestId: null,
    send: null,
    attempt: null,
    reason: null
  }
}

function createInstruments (meter: Meter): Instruments {
  const tasks = { unit: '{task}' }
  const seconds = { unit: 's', advice: { explicitBucketBoundaries: BUCKETS_S } }
  return {
    added: meter.createCounter('background_tasks.added', { ...tasks, description: 'Tasks that have been added' }),
    settled: meter.createCounter('background_tasks.settled', { ...tasks, description: 'Tasks that have ended, by state' }),
    retries: meter.createCounter('background_tasks.retries', { unit: '{attempt}', description: 'Attempts that failed and are followed by another one' }),
    abandoned: meter.createCounter('background_tasks.abandoned', { ...tasks, description: 'Tasks that were given up while they ran' }),
    inFlight: meter.createUpDownCounter('background_tasks.in_flight', { ...tasks, description: 'Functions of tasks that run' }),
    queueTime: meter.createHistogram('background_tasks.queue.duration', { ...seconds, description: 'From the add of a task to its first attempt' }),
    runTime: meter.createHistogram('messaging.process.duration', { ...seconds, description: 'Duration of an attempt' })
  }
}

/** Only values of low cardinality: task names, never an id. */
function metricAttributes (name: string): Attributes {
  return { 'messaging.destination.name': name }
}

/** See https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ */
function spanAttributes (operation: string, type: string, { name, id, requestId }: Pick<TaskMessage, 'name' | 'id' | 'requestId'>): Attributes {
  return {
    'messaging.system': NAME,
    'messaging.operation.name': operation,
    'messaging.operation.type': type,
    'messaging.destination.name': name,
    'messaging.message.id': id,
    ...(typeof requestId === 'string' && { 'messaging.message.conversation_id': requestId })
  }
}

function recordFailure (span: Span, error: unknown): void {
  const { type, message, stack } = shapeOf(error)
  span.recordException({ name: type, message, ...(stack !== undefined && { stack }) })
  span.setAttribute('error.type', type)
  span.setStatus({ code: SpanStatusCode.ERROR, message })
}

/** The description of a thrown value, of any type; reading it may throw. */
function shapeOf (error: unknown): { type: string, message: string, stack?: string | undefined } {
  try {
    if (!isError(error)) return { type: '_OTHER', message: received(error) }
    const { code, name, message, stack } = error as Error & { code?: unknown }
    return { type: typeof code === 'string' ? code : String(name), message: String(message), stack: stack === undefined ? undefined : String(stack) }
  } catch {
    return { type: '_OTHER', message: 'an error that cannot be shown' }
  }
}
