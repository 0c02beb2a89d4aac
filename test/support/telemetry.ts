import { FastifyOtelInstrumentation } from '@fastify/otel'
import { context, metrics, propagation, trace, type Attributes } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { registerInstrumentations } from '@opentelemetry/instrumentation'
import { AggregationTemporality, InMemoryMetricExporter, MeterProvider, PeriodicExportingMetricReader, type Histogram } from '@opentelemetry/sdk-metrics'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor, type ReadableSpan } from '@opentelemetry/sdk-trace-base'
import type { Test } from 'tap'
import { BackgroundTasksInstrumentation, type BackgroundTasksInstrumentationConfig } from '../../lib/observe/otel'

export interface Telemetry {
  instrumentation: BackgroundTasksInstrumentation
  fastifyOtel: FastifyOtelInstrumentation
  /** Of the test's own spans. */
  tracer: ReturnType<BasicTracerProvider['getTracer']>
  /** The spans that have ended. */
  spans (name?: string): ReadableSpan[]
  span (name: string): ReadableSpan
  /** The sum, or the histogram, of a metric for some attributes. */
  metric (name: string, attributes: Attributes): Promise<number | Histogram | undefined>
  /** All attribute keys of all metrics. */
  attributeKeys (): Promise<string[]>
}

/** The SDK of OpenTelemetry, set up as an application does it, with its exporters in memory. Ends with the test. */
export function telemetry (t: Test, config?: BackgroundTasksInstrumentationConfig): Telemetry {
  const exporter = new InMemorySpanExporter()
  const tracerProvider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  const reader = new PeriodicExportingMetricReader({
    exporter: new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE),
    exportIntervalMillis: 3_600_000
  })
  const meterProvider = new MeterProvider({ readers: [reader] })
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  trace.setGlobalTracerProvider(tracerProvider)
  const instrumentation = new BackgroundTasksInstrumentation(config)
  const fastifyOtel = new FastifyOtelInstrumentation()
  const unregister = registerInstrumentations({ tracerProvider, meterProvider, instrumentations: [fastifyOtel, instrumentation] })
  t.teardown(async () => {
    unregister()
    for (const api of [context, propagation, trace, metrics]) api.disable()
    await meterProvider.shutdown()
    await tracerProvider.shutdown()
  })

  const spans = (name?: string) => exporter.getFinishedSpans().filter(span => name === undefined || span.name === name)
  const collected = async () => {
    const { resourceMetrics } = await reader.collect()
    return resourceMetrics.scopeMetrics.flatMap(({ metrics }) => metrics)
  }
  return {
    instrumentation,
    fastifyOtel,
    tracer: tracerProvider.getTracer('test'),
    spans,
    span (name) {
      const [span, ...others] = spans(name)
      if (span === undefined || others.length !== 0) throw new Error(`${others.length + 1} spans '${name}', there are: ${spans().map(({ name }) => name).join(', ')}`)
      return span
    },
    async metric (name, attributes) {
      const metric = (await collected()).find(({ descriptor }) => descriptor.name === name)
      const point = metric?.dataPoints.find(point => JSON.stringify(Object.entries(point.attributes).sort()) === JSON.stringify(Object.entries(attributes).sort()))
      return point?.value as number | Histogram | undefined
    },
    async attributeKeys () {
      return [...new Set((await collected()).flatMap(({ dataPoints }) => dataPoints.flatMap(({ attributes }) => Object.keys(attributes))))].sort()
    }
  }
}

/** Whether a span is the parent of another one. */
export function isParent (parent: ReadableSpan, child: ReadableSpan): boolean {
  return child.parentSpanContext?.spanId === parent.spanContext().spanId && child.spanContext().traceId === parent.spanContext().traceId
}
