import { test } from 'tap'
import { createApp, listen, settled } from './support/server'

test("onFailure: 'stop' drops the rest of the request's tasks, visibly, and no other request's", async t => {
  const { app, log } = await createApp(t, { onFailure: 'stop' })
  const ran: string[] = []
  app.get('/:what', async request => {
    const { what } = request.params as { what: string }
    request.backgroundTasks.add(() => { ran.push('first') })
    request.backgroundTasks.add(async () => { if (what === 'fails') throw new Error('boom') })
    request.backgroundTasks.add({ name: 'third' }, () => { ran.push('third') })
    request.backgroundTasks.add({ name: 'delayed', delay: 60_000 }, () => { ran.push('delayed') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(`${url}/fails`)
  await settled(app, { completed: 1, failed: 1, dropped: 2 })
  t.same(ran, ['first'])
  t.match(log.filter(line => line.msg === 'background task dropped'), [
    { task: { name: 'third' }, why: 'a task before it failed' },
    { task: { name: 'delayed' }, why: 'a task before it failed' }
  ])
  await fetch(`${url}/succeeds`)
  await settled(app, { completed: 4, failed: 1, dropped: 2, pending: 1 })
  t.same(ran, ['first', 'first', 'third'])
})

test("under onFailure: 'stop' a task that waits for its next attempt keeps the line", async t => {
  const { app } = await createApp(t, { onFailure: 'stop' })
  const ran: string[] = []
  app.get('/', async request => {
    let attempt = 0
    request.backgroundTasks.add({ attempts: 3, backoff: 1 }, () => {
      ran.push(`attempt ${++attempt}`)
      if (attempt < 3) throw new Error('boom')
    })
    request.backgroundTasks.add(() => { ran.push('second') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2, retried: 2 })
  t.same(ran, ['attempt 1', 'attempt 2', 'attempt 3', 'second'])
})

test("under onFailure: 'stop' cancelling the task that keeps the line lets the others go on", async t => {
  const { app } = await createApp(t, { onFailure: 'stop' })
  let cancel!: () => Promise<boolean>
  app.get('/', async request => {
    const handle = request.backgroundTasks.add({ attempts: 2, backoff: 60_000 }, () => { throw new Error('boom') })
    cancel = () => handle.cancel()
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { pending: 2, retried: 1 })
  t.equal(await cancel(), true)
  await settled(app, { completed: 1, cancelled: 1, retried: 1 })
})
