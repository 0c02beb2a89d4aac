import { test } from 'tap'
import { createApp, listen, settled } from './support/server'

test('a delayed task joins the line when its time has come, and holds up nobody', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  let left = 0
  let began = 0
  app.get('/', async (request, reply) => {
    reply.raw.once('finish', () => { left = performance.now() })
    request.backgroundTasks.add({ delay: 30 }, () => {
      seen.push('delayed')
      began = performance.now()
    })
    request.backgroundTasks.add(() => { seen.push('second') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2 })
  t.same(seen, ['second', 'delayed'])
  t.ok(began - left >= 29, `${began - left} ms after the response`)
})

test('idle() does not wait for what is delayed into the future', async t => {
  const { app } = await createApp(t)
  const handle = app.backgroundTasks.add({ delay: 60_000 }, () => {})
  await app.backgroundTasks.idle()
  t.equal(handle.state, 'pending')
  await handle.cancel()
})
