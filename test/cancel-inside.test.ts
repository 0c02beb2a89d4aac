import { test } from 'tap'
import type { TaskHandle } from '../index'
import { createApp, listen, settled, signal } from './support/server'

// `cancel()` may be called from where a task is ending, or is being stopped, already: it then comes too late.

test('onError cancels the very task that has failed', async t => {
  const answers: Array<Promise<boolean>> = []
  const { app } = await createApp(t, { onError: (_error, task) => { answers.push(task.cancel()) } })
  let last = false
  app.get('/', async request => {
    request.backgroundTasks.add({ signal: true }, async (_signal: AbortSignal) => { throw new Error('async') })
    request.backgroundTasks.add({ signal: true }, (_signal: AbortSignal) => { throw new Error('sync') })
    request.backgroundTasks.add({ signal: true, timeout: 5 }, async (_signal: AbortSignal) => { await new Promise(() => {}) })
    request.backgroundTasks.add(() => { throw new Error('plain') })
    request.backgroundTasks.add(() => { last = true })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 4, completed: 1, abandoned: 1 })
  t.same(await Promise.all(answers), [false, false, false, false])
  t.equal(last, true)
})

test('a listener to the signal cancels the task that is timing out', async t => {
  const { app } = await createApp(t)
  let answer: Promise<boolean> | undefined
  const handle: TaskHandle = app.backgroundTasks.add({ signal: true, timeout: 5 }, async (signal: AbortSignal) => {
    await new Promise<void>(resolve => {
      signal.addEventListener('abort', () => {
        answer = handle.cancel()
        resolve()
      })
    })
  })
  t.equal(await handle.settled(), 'failed')
  t.equal(await answer, false)
  await settled(app, { failed: 1 })
})

test('a listener to the signal cancels the task that is being cancelled', async t => {
  const { app } = await createApp(t)
  let answer: Promise<boolean> | undefined
  const running = signal()
  const handle: TaskHandle = app.backgroundTasks.add({ signal: true }, async (signal: AbortSignal) => {
    running.resolve()
    await new Promise<void>(resolve => {
      signal.addEventListener('abort', () => {
        answer = handle.cancel()
        resolve()
      })
    })
  })
  await running.promise
  t.equal(await handle.cancel(), true)
  t.equal(await answer, false)
  await settled(app, { cancelled: 1 })
})

test('onError cancels the task whose predicate has failed', async t => {
  const answers: Array<Promise<boolean>> = []
  const { app } = await createApp(t, { onError: (_error, task) => { answers.push(task.cancel()) } })
  app.get('/', async request => {
    request.backgroundTasks.add({ runOn: () => { throw new Error('a predicate') } }, () => t.fail('must not run'))
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
  await settled(app, { cancelled: 1, completed: 1 })
  t.same(await Promise.all(answers), [true])
})
