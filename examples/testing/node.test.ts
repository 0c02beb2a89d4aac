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

test('a task is a function', async () => {
  await sendMail({ to: 'x@example.com', text: 'Hello' })
  assert.equal(outbox.at(-1)?.to, 'x@example.com')
})
