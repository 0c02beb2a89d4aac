import { test } from 'tap'
import { createApp, listen, settled, signal, turns } from './support/server'

test('an attempt that takes too long fails, its signal aborts, and the next task starts', async t => {
  const { app, log } = await createApp(t)
  let reason: any
  const go = signal()
  app.get('/', async request => {
    request.backgroundTasks.add({ name: 'slow', timeout: 10, signal: true }, async (signal: AbortSignal) => {
      signal.addEventListener('abort', () => { reason = signal.reason })
      await go.promise
    })
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1, completed: 1, abandoned: 1 })
  t.match(reason, { code: 'FST_BGT_TIMEOUT', message: "The background task 'slow' took longer than its timeout of 10 ms" })
  t.match(log.find(line => line.level === 50), { err: { code: 'FST_BGT_TIMEOUT' }, task: { name: 'slow' } })
  go.resolve()
  await settled(app, { failed: 1, completed: 1 })
})

test('the end of a function after its timeout changes nothing', async t => {
  const { app, log } = await createApp(t)
  const go = signal()
  const handle = app.backgroundTasks.add({ timeout: 5 }, async () => {
    await go.promise
    throw new Error('too late')
  })
  t.equal(await handle.settled(), 'failed')
  go.resolve()
  await turns()
  t.equal(app.backgroundTasks.stats().failed, 1)
  t.equal(log.filter(line => line.level === 50).length, 1)
})

test('a timeout counts for each attempt', async t => {
  const { app } = await createApp(t)
  let attempts = 0
  const handle = app.backgroundTasks.add({ timeout: 10, attempts: 2 }, async () => {
    if (++attempts === 1) await new Promise(() => {})
  })
  t.equal(await handle.settled(), 'completed')
  t.equal(app.backgroundTasks.stats().abandoned, 1)
})

test('a task that ends in time leaves no timer behind', async t => {
  const { app } = await createApp(t)
  await app.backgroundTasks.add({ timeout: 60_000 }, async () => {}).settled()
  await app.backgroundTasks.add({ timeout: 60_000 }, () => {}).settled()
  await app.backgroundTasks.add({ timeout: 60_000 }, () => { throw new Error('boom') }).settled()
  t.same(process.getActiveResourcesInfo().filter(name => name === 'Timeout').length <= 1, true, 'only that of this test')
})
