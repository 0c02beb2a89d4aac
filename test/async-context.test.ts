import { AsyncLocalStorage } from 'node:async_hooks'
import { test } from 'tap'
import { createApp, listen, settled } from './support/server'

test('a task runs in the async context of the place that called add', async t => {
  const { app } = await createApp(t)
  const store = new AsyncLocalStorage<string>()
  const seen: Array<string | undefined> = []
  const look = async () => {
    seen.push(store.getStore())
    await new Promise(resolve => { setImmediate(resolve) })
    seen.push(store.getStore())
  }
  app.addHook('onRequest', (request, _reply, done) => {
    store.run('hook', () => {
      request.backgroundTasks.add(look)
      done()
    })
  })
  app.get('/', async request => {
    request.backgroundTasks.add(look)
    store.run('handler', () => {
      request.backgroundTasks.add(look)
      request.backgroundTasks.add({ attempts: 2, timeout: 60_000 }, look)
      request.backgroundTasks.add(() => {
        seen.push(store.getStore())
        store.run('task', () => { request.backgroundTasks.add(look) })
      })
    })
    store.exit(() => { request.backgroundTasks.add(look) })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 7 })
  t.same(seen, [
    'hook', 'hook', 'hook', 'hook', 'handler', 'handler', 'handler', 'handler', 'handler', undefined, undefined, 'task', 'task'
  ])
})

test('every attempt of a task runs in that context', async t => {
  const { app } = await createApp(t)
  const store = new AsyncLocalStorage<string>()
  const seen: Array<string | undefined> = []
  store.run('start-up', () => {
    app.backgroundTasks.add({ attempts: 2, backoff: 1, delay: 1 }, async () => {
      seen.push(store.getStore())
      throw new Error('boom')
    })
  })
  await settled(app, { failed: 1, retried: 1 })
  t.same(seen, ['start-up', 'start-up'])
})
