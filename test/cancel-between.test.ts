import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { test } from 'tap'
import { defineTask, type SettleMessage, type TaskHandle } from '../index'
import { createApp, listen, settled } from './support/server'
import { StubBackend } from './support/stub-backend'

// The user's code runs between the decision about a task and what follows from it. A task that it cancels there is cancelled, once.

for (const runs of [true, false]) {
  test(`a predicate cancels its own task, and answers ${runs}: the next task runs, and the close waits for nothing`, async t => {
    const { app } = await createApp(t)
    app.get('/', async request => {
      const handle: TaskHandle = request.backgroundTasks.add({
        runOn: () => {
          handle.cancel()
          return runs
        }
      }, () => t.fail('must not run'))
      request.backgroundTasks.add(() => {})
      return 'x'
    })
    const { url } = await listen(app)
    t.equal((await fetch(url)).status, 200)
    await settled(app, { cancelled: 1, completed: 1 })
    await app.close()
    t.match(app.backgroundTasks.stats(), { accepted: 2, cancelled: 1, completed: 1, failed: 0, dropped: 0 })
  })
}

test('the predicate of one task for the backend cancels another one: the request is answered, and one task stored', async t => {
  const [first, second] = [defineTask('first', () => {}), defineTask('second', () => {})]
  const backend = new StubBackend()
  const { app } = await createApp(t, { tasks: [first, second], backend, worker: false })
  app.get('/', async request => {
    const handle = request.backgroundTasks.add(first)
    request.backgroundTasks.add({
      runOn: () => {
        handle.cancel()
        return true
      }
    }, second)
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
  await settled(app, { cancelled: 1, stored: 1 })
  t.same(backend.written.flat().map(({ name }) => name), ['second'])
})

test('all tasks for the backend are cancelled by a predicate: nothing is stored', async t => {
  const task = defineTask('task', () => {})
  const backend = new StubBackend()
  const { app } = await createApp(t, { tasks: [task], backend, worker: false })
  app.get('/', async request => {
    const handle: TaskHandle = request.backgroundTasks.add({
      runOn: () => {
        handle.cancel()
        return true
      }
    }, task)
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 200)
  await settled(app, { cancelled: 1 })
  t.same(backend.written.flat(), [])
})

for (const released of [true, false]) {
  test(`a subscriber to the end of a replaced task cancels the new one${released ? ', in a released request' : ''}`, async t => {
    const { app } = await createApp(t)
    const handles: TaskHandle[] = []
    const onSettle = (message: unknown) => { if ((message as SettleMessage).state === 'replaced') addedNow!.cancel() }
    let addedNow: TaskHandle | undefined
    const onAdd = (message: unknown) => { addedNow = (message as SettleMessage).task }
    subscribe('fastify-background-tasks.settle', onSettle)
    subscribe('fastify-background-tasks.add', onAdd)
    t.teardown(() => {
      unsubscribe('fastify-background-tasks.settle', onSettle)
      unsubscribe('fastify-background-tasks.add', onAdd)
    })
    app.get('/', async request => {
      handles.push(request.backgroundTasks.add({ key: 'a' }, () => {}))
      if (released) request.backgroundTasks.release()
      handles.push(request.backgroundTasks.add({ key: 'a' }, () => t.fail('must not run')))
      handles.push(request.backgroundTasks.add(() => {}))
      return 'x'
    })
    const { url } = await listen(app)
    await fetch(url)
    await settled(app, { replaced: 1, cancelled: 1, completed: 1 })
    t.same(handles.map(({ state }) => state), ['replaced', 'cancelled', 'completed'])
  })
}

test('a task that its backend refuses, cancelled at the same moment, is either cancelled or failed, and not both', async t => {
  const failures: unknown[] = []
  const task = defineTask('task', () => {})
  const backend = new StubBackend()
  backend.onStore = async () => { throw new Error('full') }
  const { app, log } = await createApp(t, { tasks: [task], backend, worker: false, onError: error => { failures.push(error) } })
  await app.ready()
  const handle = app.backgroundTasks.add(task)
  const cancelled = await handle.cancel()
  const state = await handle.settled()
  t.equal(state, cancelled ? 'cancelled' : 'failed')
  t.same([failures.length, log.filter(({ level }) => level >= 50).length], cancelled ? [0, 0] : [1, 1])
})
