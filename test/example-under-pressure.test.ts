import { test } from 'tap'
import { build } from '../examples/under-pressure'
import { until } from './support/until'
import { listen, signal } from './support/server'

test('while too many tasks wait, requests are refused and the status says so; afterwards all is well again', async t => {
  const held = signal()
  const app = await build({ work: () => held.promise, backlog: 3, interval: 10 })
  t.teardown(() => app.close())
  t.teardown(() => held.resolve())
  const { url } = await listen(app)
  const order = async () => (await fetch(`${url}/orders`, { method: 'POST' })).status
  const status = async () => (await fetch(`${url}/health`)).status

  t.equal(await status(), 200)
  t.same([await order(), await order(), await order()], [202, 202, 202])
  const refused = await until('a refusal', async () => {
    const response = await fetch(`${url}/orders`, { method: 'POST' })
    return response.status === 503 && response
  })
  t.equal(refused.headers.get('retry-after'), '5')
  t.equal(await status(), 503)

  const { accepted } = app.backgroundTasks.stats()
  t.ok(accepted >= 3)
  held.resolve()
  await until('health', async () => await status() === 200)
  t.equal(await order(), 202)
  await app.backgroundTasks.idle()
  t.match(app.backgroundTasks.stats(), { accepted: accepted + 1, completed: accepted + 1 })
})
