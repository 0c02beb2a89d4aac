import { test } from 'tap'
import { build } from '../examples/nightly'

test('nightly: two schedules, which can be listed and run', async t => {
  const app = await build()
  t.teardown(() => app.close())
  const schedules = (await app.inject('/schedules')).json()
  t.match(schedules, [
    { id: 'nightly-clean-up', task: 'clean-up', cron: '0 3 * * *', timezone: 'Europe/Berlin', every: null, last: null, skipped: 0 },
    { id: 'report', task: 'report', cron: null, every: 3_600_000 }
  ])
  t.ok(Date.parse(schedules[0].next) > Date.now())
  const response = await app.inject({ method: 'POST', url: '/schedules/nightly-clean-up/run' })
  t.equal(response.statusCode, 202)
  await app.backgroundTasks.idle()
  t.match(await app.backgroundTasks.find(response.json().id), { name: 'clean-up', state: 'completed', result: { days: 30 } })
})
