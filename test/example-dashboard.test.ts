import { test } from 'tap'
import { build } from '../examples/dashboard'
import { openStream, tasksAt } from './support/dashboard'
import { until } from './support/until'
import { listen } from './support/server'

test('examples/dashboard.ts: its page shows the tasks of its route, to those who have the password', async t => {
  const app = await build({ password: 'secret' })
  t.teardown(() => app.close())
  const { url } = await listen(app)
  t.equal((await fetch(`${url}/tasks/`)).status, 401)
  const headers = { authorization: `Basic ${btoa('admin:secret')}`, 'x-background-tasks-dashboard': '1' }
  t.equal((await fetch(`${url}/tasks/`, { headers })).status, 200)
  const viewer = await openStream(t, `${url}/tasks/events`, headers)
  await fetch(`${url}/resize/2`, { method: 'POST' })
  const { longest } = await viewer.until(({ longest }) => longest.some(({ progress }) => progress !== null))
  t.match(longest, [{ name: 'resize', progress: { percent: 50 } }])
  const { id } = await until('the next attempt', async () => (await tasksAt(`${url}/tasks`, headers)).find(({ name, state }) => name === 'notify' && state === 'retrying'))
  t.same(await (await fetch(`${url}/tasks/tasks/${id}/cancel`, { method: 'POST', headers })).json(), { done: true })
})

test('examples/dashboard.ts: without a password set, nobody has it', async t => {
  const app = await build()
  t.teardown(() => app.close())
  const { url } = await listen(app)
  t.equal((await fetch(`${url}/tasks/`, { headers: { authorization: `Basic ${btoa('admin:')}` } })).status, 401)
})
