import { test, type Test } from 'tap'
import { build } from '../examples/accepted'
import { bullmq } from '../lib/backends/bullmq'
import { until } from './support/until'
import { listen } from './support/server'
import { noRedis, redis } from './support/services'

async function check (t: Test, options: Parameters<typeof build>[0] = {}) {
  const app = await build({ pageTime: 100, ...options })
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const response = await fetch(`${url}/reports`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"pages":3}' })
  t.equal(response.status, 202)
  const location = response.headers.get('location') as string
  const { id } = await response.json() as { id: string }
  t.equal(location, `/reports/${id}`)
  const watch = async () => (await fetch(url + location)).json() as Promise<{ state: string, progress?: { page: number }, result?: unknown }>
  t.match(await until('progress', async () => {
    const report = await watch()
    return report.progress !== undefined && report
  }), { state: 'running', progress: { pages: 3 }, result: undefined })
  t.match(await until('the result', async () => {
    const report = await watch()
    return report.state === 'completed' && report
  }), { progress: { page: 3, pages: 3 }, result: { file: `report-${id}.pdf` } })
  t.equal((await fetch(`${url}/reports/unknown`)).status, 404)
}

test('accepted: in this process', t => check(t))

test('accepted: with a queue', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  await check(t, { backend: bullmq({ connection: url, queue: `accepted-${process.pid}` }) })
})
