import { test } from 'tap'
import type { TaskHandle } from '../index'
import { createApp, listen, settled } from './support/server'

test('a later task with the same key replaces one that has not started, at its own position', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const handles: TaskHandle[] = []
  app.get('/', async request => {
    const { backgroundTasks } = request
    handles.push(backgroundTasks.add({ key: 'index' }, () => { ran.push('index 1') }))
    backgroundTasks.add(() => { ran.push('other') })
    handles.push(backgroundTasks.add({ key: 'index' }, () => { ran.push('index 2') }))
    backgroundTasks.add({ key: 'mail' }, () => { ran.push('mail') })
    handles.push(backgroundTasks.add({ key: 'index', runOn: 'always' }, () => { ran.push('index 3') }))
    t.same(handles.slice(-3).map(handle => handle.state), ['replaced', 'replaced', 'collecting'])
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 3, replaced: 2 })
  t.same(ran, ['other', 'mail', 'index 3'])
  t.same(await Promise.all(handles.map(handle => handle.settled())), ['replaced', 'replaced', 'completed'])

  await fetch(url)
  await settled(app, { completed: 6, replaced: 4 })
  t.pass('keys are within one request')
})

test('a task that has started, runs, or waits for another attempt, is not replaced', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.get('/', async request => {
    const { backgroundTasks } = request
    let attempts = 0
    backgroundTasks.add({ key: 'a' }, () => {
      ran.push('first')
      backgroundTasks.add({ key: 'a' }, () => { ran.push('added by the first') })
    })
    backgroundTasks.add({ key: 'b', attempts: 2, backoff: 1 }, () => {
      ran.push(`b, attempt ${++attempts}`)
      if (attempts === 1) {
        backgroundTasks.add(() => { backgroundTasks.add({ key: 'b' }, () => { ran.push('b, added later') }) })
        throw new Error('boom')
      }
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 5, retried: 1 })
  t.same(ran.sort(), ['added by the first', 'b, added later', 'b, attempt 1', 'b, attempt 2', 'first'])
})

test('replacing the only task, before the response and after the run, keeps the request in order', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.get('/', async request => {
    const { backgroundTasks } = request
    backgroundTasks.add({ key: 'a', delay: 60_000 }, () => { ran.push('delayed') })
    backgroundTasks.add(() => {
      backgroundTasks.add({ key: 'a' }, () => { ran.push('instead of the delayed one') })
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2, replaced: 1 })
  t.same(ran, ['instead of the delayed one'])
})

test('outside a request a key has no meaning', async t => {
  const { app } = await createApp(t)
  app.backgroundTasks.add({ key: 'a' }, () => {})
  app.backgroundTasks.add({ key: 'a' }, () => {})
  await settled(app, { completed: 2 })
})

test('with as many tasks pending as maxPending allows, a request may still replace its own, and only that', async t => {
  const { app } = await createApp(t, { maxPending: 2 })
  const ran: string[] = []
  app.get('/', async request => {
    const { backgroundTasks } = request
    backgroundTasks.add({ key: 'a' }, () => { ran.push('first') })
    backgroundTasks.add(() => { ran.push('other') })
    backgroundTasks.add({ key: 'a' }, () => { ran.push('second') })
    const third = backgroundTasks.add({ key: 'a' }, () => { ran.push('third') })
    t.throws(() => backgroundTasks.add({ key: 'b' }, () => {}), { code: 'FST_BGT_OVERLOADED' })
    t.throws(() => backgroundTasks.add(() => {}), { code: 'FST_BGT_OVERLOADED' })
    t.throws(() => app.backgroundTasks.add({ key: 'a' }, () => {}), { code: 'FST_BGT_OVERLOADED' })
    await third.cancel()
    backgroundTasks.add({ key: 'b' }, () => { ran.push('b') })
    t.throws(() => backgroundTasks.add({ key: 'a' }, () => {}), { code: 'FST_BGT_OVERLOADED' }, 'the key is nobody\'s any more')
    return 'x'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  await settled(app, { completed: 2, replaced: 2, cancelled: 1 })
  t.same(ran, ['other', 'b'])
})
