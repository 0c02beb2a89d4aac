import { test } from 'tap'
import { UnrecoverableError } from '../index'
import { backoffDelay } from '../lib/shared/backoff'
import { createApp, listen, settled } from './support/server'

test('a task that fails is tried again, and meanwhile the others go on', async t => {
  const { app, log } = await createApp(t)
  const seen: string[] = []
  app.get('/', async request => {
    let attempts = 0
    request.backgroundTasks.add({ name: 'flaky', attempts: 3, backoff: 5 }, async () => {
      seen.push(`flaky ${++attempts}`)
      if (attempts < 3) throw new Error(`boom ${attempts}`)
    })
    request.backgroundTasks.add(() => { seen.push('second') })
    request.backgroundTasks.add(() => { seen.push('third') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 3, retried: 2 })
  t.same(seen, ['flaky 1', 'second', 'third', 'flaky 2', 'flaky 3'])
  t.match(log.filter(line => line.msg === 'background task will be tried again'), [
    { level: 20, task: { name: 'flaky', attempt: 1 }, err: { message: 'boom 1' } },
    { level: 20, task: { name: 'flaky', attempt: 2 }, err: { message: 'boom 2' } }
  ])
  t.notOk(log.find(line => line.level === 50))
})

test('without a backoff the next attempt comes at the tail of the line', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  app.get('/', async request => {
    request.backgroundTasks.add({ attempts: 2 }, () => {
      seen.push('first')
      throw new Error('boom')
    })
    for (const name of ['second', 'third']) {
      request.backgroundTasks.add(async () => {
        seen.push(name)
        await new Promise(resolve => { setTimeout(resolve, 5) })
      })
    }
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1, completed: 2, retried: 1 })
  t.same(seen.sort(), ['first', 'first', 'second', 'third'])
  t.equal(seen[0], 'first')
})

test('when the last attempt has failed, the task has failed, once', async t => {
  const errors: unknown[] = []
  const { app, log } = await createApp(t, { onError: error => { errors.push(error) } })
  let attempts = 0
  app.backgroundTasks.add({ attempts: 3 }, () => { throw new Error(`boom ${++attempts}`) })
  await settled(app, { failed: 1, retried: 2 })
  t.match(log.filter(line => line.level === 50), [{ err: { message: 'boom 3' }, task: { attempt: 3 } }])
  t.match(errors, [{ message: 'boom 3' }])
})

test('an UnrecoverableError ends the attempts, whichever class of that name it is', async t => {
  const { app } = await createApp(t)
  app.backgroundTasks.add({ attempts: 5 }, async () => { throw new UnrecoverableError('no such address') })
  app.backgroundTasks.add({ attempts: 5 }, () => { throw Object.assign(new Error('x'), { name: 'UnrecoverableError' }) })
  app.backgroundTasks.add({ attempts: 5 }, () => { throw new class extends UnrecoverableError {}('x') })
  await settled(app, { failed: 3 })
})

test('the wait between attempts: fixed, exponential, jitter, in BullMQ\'s formula', async t => {
  const wait = (options: Parameters<typeof backoffDelay>[0], attempts: number) => backoffDelay(options, attempts)
  t.same([1, 2, 3].map(n => wait({ type: 'fixed', delay: 100, jitter: 0 }, n)), [100, 100, 100])
  t.same([1, 2, 3, 4].map(n => wait({ type: 'exponential', delay: 100, jitter: 0 }, n)), [100, 200, 400, 800])
  t.equal(wait({ type: 'exponential', delay: 1_000, jitter: 0 }, 60), 2 ** 31 - 1, 'never more than a timer can wait')
  const waits = Array.from({ length: 200 }, () => wait({ type: 'fixed', delay: 1_000, jitter: 0.5 }, 1))
  t.ok(waits.every(ms => ms >= 500 && ms <= 1_000))
  t.ok(Math.max(...waits) - Math.min(...waits) > 200)
})

test('the attempts keep to the backoff', async t => {
  const { app } = await createApp(t)
  const times: number[] = []
  const handle = app.backgroundTasks.add({ attempts: 3, backoff: { type: 'exponential', delay: 20 } }, () => {
    times.push(performance.now())
    throw new Error('boom')
  })
  t.equal(await handle.settled(), 'failed')
  // A timer of Node may be early by up to a millisecond.
  t.ok(times[1]! - times[0]! >= 19)
  t.ok(times[2]! - times[1]! >= 39)
})

test('an exponential backoff of nothing stays nothing', async t => {
  t.equal(backoffDelay({ type: 'exponential', delay: 0, jitter: 0 }, 1_100), 0)
})
