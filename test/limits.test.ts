import { test } from 'tap'
import { createApp, listen, settled, signal } from './support/server'

test('concurrency: never more tasks at once, over all requests and the application', async t => {
  const { app } = await createApp(t, { concurrency: 3 })
  let running = 0
  let most = 0
  const work = async () => {
    most = Math.max(most, ++running)
    await new Promise(resolve => { setImmediate(resolve) })
    running--
  }
  app.get('/', async request => {
    for (let i = 0; i < 5; i++) request.backgroundTasks.add(work)
    return 'x'
  })
  for (let i = 0; i < 5; i++) app.backgroundTasks.add(work)
  const { url } = await listen(app)
  await Promise.all(Array.from({ length: 10 }, () => fetch(url)))
  await settled(app, { completed: 55 })
  t.equal(most, 3)
})

test('concurrency: a request with a thousand tasks does not make another wait for all of them', async t => {
  const { app } = await createApp(t, { concurrency: 1 })
  const seen: string[] = []
  const go = signal()
  app.get('/:count', async request => {
    const count = Number((request.params as { count: string }).count)
    for (let i = 0; i < count; i++) {
      request.backgroundTasks.add(async () => {
        await go.promise
        seen.push(`${count}`)
      })
    }
    return 'x'
  })
  const { url } = await listen(app)
  await (await fetch(`${url}/1000`)).text()
  await settled(app, { running: 1, pending: 999 })
  await (await fetch(`${url}/2`)).text()
  await settled(app, { running: 1, pending: 1001 })
  go.resolve()
  await settled(app, { completed: 1002 })
  t.ok(seen.lastIndexOf('2') < 5, `the last of the short request's tasks was number ${seen.lastIndexOf('2')}`)
})

test('a task that waits for its next attempt takes no place', async t => {
  const { app } = await createApp(t, { concurrency: 1 })
  const handle = app.backgroundTasks.add({ attempts: 2, backoff: 60_000 }, () => { throw new Error('boom') })
  await app.backgroundTasks.add(() => {}).settled()
  t.equal(handle.state, 'pending')
  await handle.cancel()
})

test('maxPending: a further task is refused with 503 and Retry-After, and none is lost', async t => {
  const { app } = await createApp(t, { maxPending: 2 })
  const go = signal()
  let ran = 0
  app.get('/', async request => {
    request.backgroundTasks.add(async () => {
      await go.promise
      ran++
    })
    return 'accepted'
  })
  const { url } = await listen(app)
  for (let i = 0; i < 2; i++) t.equal((await fetch(url)).status, 200)
  const response = await fetch(url)
  t.equal(response.status, 503)
  t.equal(response.headers.get('retry-after'), '1')
  t.match(await response.json(), {
    code: 'FST_BGT_OVERLOADED',
    message: 'The background task was refused: 2 tasks are waiting or running, and maxPending is 2'
  })
  t.throws(() => app.backgroundTasks.add(() => {}), { code: 'FST_BGT_OVERLOADED', statusCode: 503 })
  go.resolve()
  await settled(app, { completed: 2 })
  t.equal((await fetch(url)).status, 200)
  await settled(app, { completed: 3 })
  t.equal(ran, 3)
})
