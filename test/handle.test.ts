import { test } from 'tap'
import type { TaskHandle } from '../index'
import { createApp, listen, settled, signal } from './support/server'

test('a handle follows its task through its states', async t => {
  const { app } = await createApp(t)
  const [running, go] = [signal(), signal()]
  let handle!: TaskHandle
  let waiting!: TaskHandle
  app.get('/', async request => {
    handle = request.backgroundTasks.add(async function work () {
      running.resolve()
      await go.promise
    })
    waiting = request.backgroundTasks.add({ name: 'named' }, () => {})
    t.equal(handle.state, 'collecting')
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await running.promise
  t.equal(handle.state, 'running')
  t.equal(waiting.state, 'pending')
  const settledLater = handle.settled()
  t.equal(settledLater, handle.settled(), 'one promise, made when asked for')
  go.resolve()
  t.equal(await settledLater, 'completed')
  t.equal(handle.state, 'completed')
  t.equal(await handle.settled(), 'completed')
  await settled(app, { completed: 2 })
  t.equal(waiting.state, 'completed')
  t.equal(handle.name, 'work')
  t.equal(waiting.name, 'named')
  t.equal(app.backgroundTasks.add(() => {}).name, 'anonymous')
  t.match(handle.id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  t.equal(handle.id, handle.id)
  t.not(handle.id, waiting.id)
})

test('settled() resolves, never rejects, for a task that fails', async t => {
  const { app } = await createApp(t)
  const handle = app.backgroundTasks.add(async () => { throw new Error('boom') })
  t.equal(await handle.settled(), 'failed')
})

test('cancel() of a task that waits takes it away at once', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const handles: Record<string, TaskHandle> = {}
  const failed = signal()
  app.get('/', async request => {
    const { backgroundTasks } = request
    handles.collecting = backgroundTasks.add(() => { ran.push('collecting') })
    t.equal(await handles.collecting.cancel(), true)
    t.equal(handles.collecting.state, 'cancelled')
    handles.retrying = backgroundTasks.add({ attempts: 2, backoff: 60_000 }, () => { throw new Error('boom') })
    handles.delayed = backgroundTasks.add({ delay: 60_000 }, () => { ran.push('delayed') })
    backgroundTasks.add(async () => {
      failed.resolve()
      t.equal(await handles.pending!.cancel(), true)
    })
    handles.pending = backgroundTasks.add(() => { ran.push('pending') })
    backgroundTasks.add(() => { ran.push('last') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await failed.promise
  t.equal(await handles.retrying!.cancel(), true)
  t.equal(await handles.delayed!.cancel(), true)
  await settled(app, { cancelled: 4, completed: 2, retried: 1 })
  t.same(ran, ['last'])
  for (const handle of Object.values(handles)) {
    t.equal(await handle.settled(), 'cancelled')
    t.equal(await handle.cancel(), false, 'only once')
  }
})

test('after the cancellation of every task of a request before its response, no task is left', async t => {
  const { app } = await createApp(t)
  app.get('/', async request => {
    await request.backgroundTasks.add(() => t.fail('must not run')).cancel()
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await app.backgroundTasks.idle()
  await settled(app, { cancelled: 1 })
})

test('cancel() of a running task aborts its signal and lets the next one start; else it resolves with false', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  const [listening, deaf, deafGo] = [signal(), signal(), signal()]
  let handle!: TaskHandle
  let plain!: TaskHandle
  app.get('/', async request => {
    handle = request.backgroundTasks.add({ signal: true, attempts: 5 }, async (name: string, signal: AbortSignal) => {
      listening.resolve()
      await new Promise<void>(resolve => { signal.addEventListener('abort', () => resolve()) })
      seen.push(`${name}: ${signal.reason.code}`)
    }, 'listener')
    plain = request.backgroundTasks.add(async () => {
      deaf.resolve()
      await deafGo.promise
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await listening.promise
  t.equal(await handle.cancel(), true)
  t.equal(handle.state, 'cancelled')
  await deaf.promise
  t.same(seen, ['listener: FST_BGT_CANCELLED'])
  t.equal(await plain.cancel(), false)
  t.equal(plain.state, 'running')
  deafGo.resolve()
  await settled(app, { cancelled: 1, completed: 1 })
})

test('a cancelled function that goes on is counted as abandoned until it ends', async t => {
  const { app } = await createApp(t)
  const [running, go] = [signal(), signal()]
  const handle = app.backgroundTasks.add({ signal: true }, async (_signal: AbortSignal) => {
    running.resolve()
    await go.promise
    throw new Error('of no interest any more')
  })
  await running.promise
  t.equal(await handle.cancel(), true)
  await settled(app, { cancelled: 1, abandoned: 1 })
  go.resolve()
  await settled(app, { cancelled: 1 })
})

test('a task may cancel itself, before its first await', async t => {
  const { app } = await createApp(t)
  const handle = app.backgroundTasks.add({ signal: true }, (signal: AbortSignal) => {
    handle.cancel()
    t.equal(signal.aborted, true)
  })
  await settled(app, { cancelled: 1 })
})
