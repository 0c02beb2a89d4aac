import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled } from './support/server'

test("mode: 'capture' records what would have run, without running it", async t => {
  const sendMail = defineTask('send-mail', async (_mail: { to: string }) => t.fail('must not run'), { delay: 60_000 })
  const { app } = await createApp(t, { mode: 'capture', tasks: [sendMail] })
  const audit = (..._args: unknown[]) => t.fail('must not run')
  app.post('/:what', async request => {
    request.backgroundTasks.add(audit, 'signed up', 42)
    const handle = request.backgroundTasks.add(sendMail, { to: 'a@example.com' })
    request.backgroundTasks.add({ name: 'apology', runOn: 'failure' }, audit)
    if ((request.params as { what: string }).what === 'fail') throw new Error('boom')
    handle.settled().then(state => t.equal(state, 'captured'))
    return 'x'
  })
  await app.inject({ method: 'POST', url: '/succeed' })
  await app.backgroundTasks.idle()
  t.same(app.backgroundTasks.captured, [
    { name: 'audit', args: ['signed up', 42], payload: undefined, requestId: 'req-1' },
    { name: 'send-mail', args: [], payload: { to: 'a@example.com' }, requestId: 'req-1' }
  ])
  await settled(app, { captured: 2, dropped: 1 })

  app.backgroundTasks.captured.length = 0
  await app.inject({ method: 'POST', url: '/fail' })
  await app.backgroundTasks.idle()
  t.same(app.backgroundTasks.captured.map(task => task.name), ['apology'])

  app.backgroundTasks.captured.length = 0
  app.backgroundTasks.add(audit)
  await app.backgroundTasks.idle()
  t.same(app.backgroundTasks.captured, [{ name: 'audit', args: [], payload: undefined, requestId: null }])
})

test('without it nothing is recorded', async t => {
  const { app } = await createApp(t)
  app.backgroundTasks.add(() => {})
  await app.backgroundTasks.idle()
  t.same(app.backgroundTasks.captured, [])
})
