import { InMemorySpanExporter } from '@opentelemetry/sdk-trace-base'
import { test } from 'tap'
import { build, startTelemetry } from '../examples/tracing'
import { listen, settled } from './support/server'
import { isParent } from './support/telemetry'

test('tracing: the request, its task and what that does are one trace', async t => {
  const exporter = new InMemorySpanExporter()
  const app = await build(startTelemetry(exporter))
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const response = await fetch(`${url}/orders`, { method: 'POST', headers: { connection: 'close' } })
  t.same(await response.json(), { accepted: true })
  await settled(app, { completed: 1 })
  const span = (name: string) => exporter.getFinishedSpans().find(span => span.name === name)!
  const [request, attempt, render] = [span('request'), span('process sendReceipt'), span('render')]
  t.equal(attempt.spanContext().traceId, request.spanContext().traceId)
  t.equal(attempt.links[0]!.context.traceId, request.spanContext().traceId)
  t.ok(isParent(attempt, render))
})
