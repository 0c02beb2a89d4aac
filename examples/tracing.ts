import { FastifyOtelInstrumentation } from '@fastify/otel'
import { context, propagation, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { registerInstrumentations } from '@opentelemetry/instrumentation'
import { BasicTracerProvider, ConsoleSpanExporter, SimpleSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base'
import Fastify, { type FastifyInstance } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks from '../index'
import { BackgroundTasksInstrumentation } from '../lib/observe/otel'

/** What `NodeSDK` of @opentelemetry/sdk-node does in one call. */
export function startTelemetry (exporter: SpanExporter): { fastifyOtel: FastifyOtelInstrumentation, tracerProvider: BasicTracerProvider } {
  const tracerProvider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  trace.setGlobalTracerProvider(tracerProvider)
  const fastifyOtel = new FastifyOtelInstrumentation()
  registerInstrumentations({ tracerProvider, instrumentations: [fastifyOtel, new BackgroundTasksInstrumentation()] })
  return { fastifyOtel, tracerProvider }
}

export async function build (fastifyOtel: FastifyOtelInstrumentation): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(fastifyOtel.plugin())
  await app.register(backgroundTasks)

  app.post('/orders', async request => {
    request.backgroundTasks.add(async function sendReceipt () {
      // A span of the task's own is a child of its attempt.
      await trace.getTracer('shop').startActiveSpan('render', async span => {
        await sleep(20)
        span.end()
      })
    })
    return { accepted: true }
  })

  return app
}

/** The application first: it waits for tasks, whose spans are to be exported. */
export async function stop (app: FastifyInstance, tracerProvider: BasicTracerProvider): Promise<void> {
  await app.close()
  await tracerProvider.shutdown()
}

async function main (): Promise<void> {
  const { fastifyOtel, tracerProvider } = startTelemetry(new ConsoleSpanExporter())
  const app = await build(fastifyOtel)
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stop(app, tracerProvider))
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
