import assert from 'node:assert/strict'
import { test } from 'node:test'
import { build, outbox, sendMail } from './app'

test('whoever signs up gets a mail', async t => {
  const app = await build()
  t.after(() => app.close())
  const response = await app.inject({ method: 'POST', url: '/sign-up/ada@example.com' })
  assert.equal(response.statusCode, 201)
  // The response is there before its tasks have run.
  await app.backgroundTasks.idle()
  assert.deepEqual(outbox, [{ to: 'ada@example.com', text: 'Welcome' }])
})

test('the mail is what the handler asks for, whatever sending it does', async t => {
  const app = await build({ mode: 'capture' })
  t.after(() => app.close())
  await app.inject({ method: 'POST', url: '/sign-up/grace@example.com' })
  await app.backgroundTasks.idle()
  const [task] = app.backgroundTasks.captured
  assert.equal(task?.name, 'send-mail')
  assert.deepEqual(task?.payload, { to: 'grace@example.com', text: 'Welcome' })
})

test('who has not accepted within a day gets a second mail', async t => {
  const app = await build()
  t.after(() => app.close())
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  await app.inject({ method: 'POST', url: '/invitations/alan@example.com' })
  // The delay begins when the response has left.
  await app.backgroundTasks.idle()
  t.mock.timers.tick(86_399_999)
  await app.backgroundTasks.idle()
  assert.notEqual(outbox.at(-1)?.to, 'alan@example.com')
  t.mock.timers.tick(1)
  await app.backgroundTasks.idle()
  assert.deepEqual(outbox.at(-1), { to: 'alan@example.com', text: 'Your invitation is still open' })
})

test('a task is a function', async () => {
  await sendMail({ to: 'x@example.com', text: 'Hello' })
  assert.equal(outbox.at(-1)?.to, 'x@example.com')
})
