import { InMemorySpanExporter } from '@opentelemetry/sdk-trace-base'
import { test } from 'tap'
import { build, startTelemetry, stop } from '../examples/tracing'
import { listen } from './support/server'
import { isParent } from './support/telemetry'

test('tracing: the request, its task and what that does are one trace, also when the application closes', async t => {
  const exporter = new InMemorySpanExporter()
  const shutdown = exporter.shutdown.bind(exporter)
  let spans = exporter.getFinishedSpans()
  exporter.shutdown = () => {
    spans = [...exporter.getFinishedSpans()]
    return shutdown()
  }
  const { fastifyOtel, tracerProvider } = startTelemetry(exporter)
  const app = await build(fastifyOtel)
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const response = await fetch(`${url}/orders`, { method: 'POST', headers: { connection: 'close' } })
  t.same(await response.json(), { accepted: true })
  await stop(app, tracerProvider)
  const span = (name: string) => spans.find(span => span.name === name)!
  const [request, attempt, render] = [span('request'), span('process sendReceipt'), span('render')]
  t.equal(attempt.attributes['background_task.outcome'], 'completed', 'the exporter had it before its end')
  t.equal(attempt.spanContext().traceId, request.spanContext().traceId)
  t.equal(attempt.links[0]!.context.traceId, request.spanContext().traceId)
  t.ok(isParent(attempt, render))
})
