import FakeTimers from '@sinonjs/fake-timers'
import { test } from 'tap'
import { createApp, settled, turns } from './support/server'

test('a delay is counted from the end of the response, and holds up no other task', async t => {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout'] })
  t.teardown(() => clock.uninstall())
  const { app } = await createApp(t)
  const seen: string[] = []
  app.get('/', async request => {
    request.backgroundTasks.add({ delay: 30 }, () => { seen.push('delayed') })
    request.backgroundTasks.add(() => { seen.push('second') })
    clock.tick(20)
    return 'x'
  })
  await app.inject('/')
  await turns()
  t.same(seen, ['second'])
  clock.tick(29)
  await turns()
  t.same(seen, ['second'])
  clock.tick(1)
  await settled(app, { completed: 2 })
  t.same(seen, ['second', 'delayed'])
})

test('idle() does not wait for tasks that are delayed into the future', async t => {
  const { app } = await createApp(t)
  const handle = app.backgroundTasks.add({ delay: 60_000 }, () => {})
  await app.backgroundTasks.idle()
  t.equal(handle.state, 'pending')
  await handle.cancel()
})

test('a delay may be longer than a timer of Node can wait, up to ten years', async t => {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  t.teardown(() => clock.uninstall())
  const { app } = await createApp(t)
  const DAY = 86_400_000
  const ran: string[] = []
  for (const days of [24, 25, 60, 3_650]) app.backgroundTasks.add({ delay: days * DAY }, () => { ran.push(`after ${days} days`) })
  const cancelled = app.backgroundTasks.add({ delay: 60 * DAY }, () => { ran.push('cancelled') })
  clock.tick(30 * DAY)
  await turns()
  t.same(ran, ['after 24 days', 'after 25 days'])
  t.equal(await cancelled.cancel(), true)
  clock.tick(30 * DAY - 1)
  await turns()
  t.equal(ran.length, 2)
  clock.tick(1)
  await turns()
  t.equal(ran[2], 'after 60 days')
  clock.tick(3_590 * DAY)
  await turns()
  t.equal(ran[3], 'after 3650 days')
  t.equal(ran.length, 4)
  t.throws(() => app.backgroundTasks.add({ delay: 3_651 * DAY }, () => {}), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'delay' must be a number of milliseconds from 0 to 315360000000/ })
})
