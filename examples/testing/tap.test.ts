import { test } from 'tap'
import { build, outbox, sendMail } from './app'

test('whoever signs up gets a mail', async t => {
  const app = await build()
  t.teardown(() => app.close())
  const response = await app.inject({ method: 'POST', url: '/sign-up/ada@example.com' })
  t.equal(response.statusCode, 201)
  // The response is there before its tasks have run.
  await app.backgroundTasks.idle()
  t.same(outbox, [{ to: 'ada@example.com', text: 'Welcome' }])
})

test('the mail is what the handler asks for, whatever sending it does', async t => {
  const app = await build({ mode: 'capture' })
  t.teardown(() => app.close())
  await app.inject({ method: 'POST', url: '/sign-up/grace@example.com' })
  await app.backgroundTasks.idle()
  t.match(app.backgroundTasks.captured, [{ name: 'send-mail', payload: { to: 'grace@example.com', text: 'Welcome' } }])
})

test('a task is a function', async t => {
  await sendMail({ to: 'x@example.com', text: 'Hello' })
  t.match(outbox.at(-1), { to: 'x@example.com' })
})
