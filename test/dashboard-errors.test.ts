import { test } from 'tap'
import { defineTask } from '../index'
import { dashboard } from '../lib/dashboard'
import { detailsAt, listPage, openStream } from './support/dashboard'
import { createApp, listen, settled } from './support/server'

/* What the dashboard shows of errors, payloads and results that are unusual. */

test('an error that cannot be read, and one without a message', async t => {
  const { app } = await createApp(t)
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  app.backgroundTasks.add({ name: 'hostile' }, () => { throw Object.defineProperty(new Error('x'), 'message', { get () { throw new Error('no') } }) })
  app.backgroundTasks.add({ name: 'silent' }, () => { throw new TypeError() })
  await settled(app, { failed: 2 })
  const { failures } = await (await openStream(t, `${url}/tasks/events`)).first
  t.same(new Map(failures.groups.map(({ name, error }) => [name, error])), new Map([['hostile', 'an error that cannot be shown'], ['silent', 'TypeError']]))
})

test('of a task with many attempts the last error is kept, and twenty before it', async t => {
  const { app } = await createApp(t)
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  let attempt = 0
  app.backgroundTasks.add({ attempts: 25, backoff: 0 }, () => { throw new Error(`attempt ${++attempt}`) })
  await settled(app, { failed: 1, retried: 24 })
  const [task] = (await listPage(`${url}/tasks`, 'failed')).tasks
  const { errors } = await detailsAt(`${url}/tasks`, task!.id)
  t.same(errors.map(({ error }) => error), Array.from({ length: 21 }, (_, i) => `Error: attempt ${5 + i}`))
})

test('a task that has failed and is not kept is still known to who has its id, with its error; one without a result has none', async t => {
  const nothing = defineTask('nothing', async () => {})
  const { app } = await createApp(t, { tasks: [nothing] })
  await app.register(dashboard, { prefix: '/tasks', failures: 0, payload: true })
  const { url } = await listen(app)
  const failed = app.backgroundTasks.add(function fails () { throw new Error('out of paper') })
  const completed = app.backgroundTasks.add(nothing)
  const ids = [failed.id, completed.id]
  await settled(app, { failed: 1, completed: 1 })
  t.same((await listPage(`${url}/tasks`, 'failed')).tasks, [])
  t.match(await detailsAt(`${url}/tasks`, ids[0]!), { name: 'fails', state: 'failed', error: 'Error: out of paper', errors: [{ at: null, stack: /Error: out of paper\n/ }] })
  t.match(await detailsAt(`${url}/tasks`, ids[1]!), { name: 'nothing', state: 'completed', result: '', error: null, errors: [] })
})

test('a payload that is very long is shown as it is, as far as there is room', async t => {
  const long = defineTask('long', async (_payload: { text: string }) => {})
  const { app } = await createApp(t, { tasks: [long], closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks', payload: true })
  const { url } = await listen(app)
  const { id } = app.backgroundTasks.add({ delay: 600_000 }, long, { text: 'x'.repeat(300_000) })
  const { payload } = await detailsAt(`${url}/tasks`, id)
  t.equal(payload, `{"text":"${'x'.repeat(19_990)}…`)
})
