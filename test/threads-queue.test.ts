import { test } from 'tap'
import { defineTask } from '../index'
import { begun, createApp, listen, settled } from './support/server'
import { StubBackend } from './support/stub-backend'
import { moduleFile } from './support/threads'

const WAITS = `
  import { once } from 'node:events'
  export default async (payload, { signal, progress }) => {
    progress('begun')
    await once(signal, 'abort')
  }`

test('a full queue refuses tasks with 503, before the response is sent', async t => {
  const waits = defineTask('waits', moduleFile(t, WAITS))
  const { app } = await createApp(t, { tasks: [waits], threads: { max: 1, maxQueue: 2 } })
  app.get('/', async request => {
    request.backgroundTasks.add(waits)
    return 'accepted'
  })
  const { url } = await listen(app)
  const running = app.backgroundTasks.add(waits)
  await begun(app, running.id)
  const queued = app.backgroundTasks.add(waits)
  t.equal((await fetch(url)).status, 200, 'one that runs is not in the queue')
  const response = await fetch(url)
  t.equal(response.status, 503)
  t.equal(response.headers.get('retry-after'), '1')
  t.match(await response.json(), {
    code: 'FST_BGT_OVERLOADED',
    message: 'The background task was refused: 2 tasks are waiting for a thread, and threads.maxQueue is 2'
  })
  app.backgroundTasks.add(() => {})
  t.equal(await queued.cancel(), true)
  t.equal((await fetch(url)).status, 200, 'there is room again')
  t.equal((await fetch(url)).status, 503)
  t.equal(app.backgroundTasks.stats().accepted, 5)
})

test('a task that is refused for another reason is not counted, and keeps its buffers', async t => {
  const waits = defineTask<Uint8Array>('waits', moduleFile(t, WAITS), { local: true, transfer: payload => [payload] })
  const { app } = await createApp(t, { tasks: [waits], threads: { max: 1, maxQueue: 2 }, maxPending: 2 })
  const payloads = [1, 2, 3].map(() => new Uint8Array(5))
  app.backgroundTasks.add(waits, payloads[0]!)
  app.backgroundTasks.add(waits, payloads[1]!)
  t.throws(() => app.backgroundTasks.add(waits, payloads[2]!), { message: /maxPending is 2/ })
  t.same(payloads.map(({ length }) => length), [0, 0, 5])
})

test('tasks that go to a backend are not counted', async t => {
  const stores = defineTask('stores', moduleFile(t, WAITS))
  const { app } = await createApp(t, { tasks: [stores], threads: { maxQueue: 1 }, backend: new StubBackend() })
  await app.ready()
  for (let i = 0; i < 3; i++) app.backgroundTasks.add(stores)
  await settled(app, { stored: 3 })
})

test('a task that is refused since its own payload has added others is not counted', async t => {
  let others = 1
  const quick = defineTask<Uint8Array>('quick', moduleFile(t, 'export default () => {}'), {
    local: true,
    transfer: () => {
      for (; others > 0; others--) app.backgroundTasks.add(() => {})
      return []
    }
  })
  const { app } = await createApp(t, { tasks: [quick], threads: { max: 1, maxQueue: 1 }, maxPending: 1 })
  t.throws(() => app.backgroundTasks.add(quick, new Uint8Array(5)), { message: /maxPending is 1/ })
  await settled(app, { completed: 1 })
  app.backgroundTasks.add(quick, new Uint8Array(5))
  await settled(app, { completed: 2 })
})

test('a request may replace its own task that waits for a thread, also where no other may wait', async t => {
  const quick = defineTask<number>('quick', moduleFile(t, 'export default () => {}'))
  const { app } = await createApp(t, { tasks: [quick], threads: { max: 1, maxQueue: 2 }, maxPending: 2 })
  app.get('/', async request => {
    const { backgroundTasks } = request
    for (let i = 0; i < 5; i++) backgroundTasks.add({ key: 'a' }, quick, i)
    backgroundTasks.add({ key: 'b' }, quick, 5)
    backgroundTasks.add({ key: 'a' }, quick, 6)
    t.throws(() => backgroundTasks.add({ key: 'c' }, quick, 7), { code: 'FST_BGT_OVERLOADED' })
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  await settled(app, { completed: 2, replaced: 5 })
})
