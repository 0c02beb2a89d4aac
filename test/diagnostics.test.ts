import { AsyncLocalStorage } from 'node:async_hooks'
import { channel, tracingChannel } from 'node:diagnostics_channel'
import { test, type Test } from 'tap'
import { defineTask, type TaskHandle } from '../index'
import { createApp, listen, settled, signal } from './support/server'
import { StubBackend } from './support/stub-backend'
import type { RunMessage, SettleMessage, TaskMessage } from '../types/messages'

const PLAIN = ['add', 'drop', 'retry', 'abandon', 'settle']
const RUN = ['start', 'end', 'asyncStart', 'asyncEnd', 'error']

type Seen = Array<[event: string, message: TaskMessage & Record<string, unknown>]>

/** Notes what is published, with the message as it is at that moment, until the test ends. */
function listenTo (t: Test, names = [...PLAIN, ...RUN.map(event => `run:${event}`)]): Seen {
  const seen: Seen = []
  for (const name of names) {
    const full = name.startsWith('run:') ? `tracing:fastify-background-tasks.${name}` : `fastify-background-tasks.${name}`
    const listener = (message: unknown) => { seen.push([name, { ...message as Seen[0][1] }]) }
    channel(full).subscribe(listener)
    t.teardown(() => channel(full).unsubscribe(listener))
  }
  return seen
}

const events = (seen: Seen, name: string) => seen.filter(([, message]) => message.name === name).map(([event]) => event)

test('a run of a function that returns a promise, and of one that does not', async t => {
  const { app } = await createApp(t)
  const seen = listenTo(t)
  app.get('/', async request => {
    request.backgroundTasks.add(async function later (a: number, b: number) {
      await undefined
      return a + b
    }, 1, 2)
    request.backgroundTasks.add(function now (this: unknown, ...args: number[]) {
      return [this, ...args]
    }, 1, 2, 3, 4, 5)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2 })
  t.same(events(seen, 'later'), ['add', 'run:start', 'run:end', 'run:asyncStart', 'run:asyncEnd', 'settle'])
  t.same(events(seen, 'now'), ['add', 'run:start', 'run:end', 'settle'])

  const [[, add], , [, start], [, end], , [, asyncEnd], [, settle]] = seen as Required<Seen> as any
  t.match(add, { id: /^[\da-f-]{36}$/, name: 'later', attempt: 0, requestId: 'req-1' })
  t.equal(add.app, app.backgroundTasks)
  t.equal(add.task.id, add.id)
  t.match(start, { id: add.id, attempt: 1, requestId: 'req-1', carrier: null, async: false, result: undefined, error: undefined })
  t.equal(start.task, add.task)
  t.equal(end.async, true)
  t.match(asyncEnd, { async: true, result: 3, error: undefined })
  t.match(settle, { id: add.id, attempt: 1, state: 'completed', error: undefined })
  t.same(seen.find(([event, { name }]) => event === 'run:end' && name === 'now')![1], { ...seen.at(-2)![1], async: false, result: [undefined, 1, 2, 3, 4, 5] })
  t.notOk(Object.keys(add).some(key => /arg|payload/.test(key)))
})

test('a function that throws, one whose promise rejects, and what comes of each', async t => {
  const { app } = await createApp(t)
  const seen = listenTo(t)
  const boom = new Error('boom')
  app.backgroundTasks.add({ name: 'throws', attempts: 2 }, () => { throw boom })
  app.backgroundTasks.add({ name: 'rejects' }, async () => { throw boom })
  await settled(app, { failed: 2, retried: 1 })
  t.same(events(seen, 'throws'), [
    'add', 'run:start', 'run:error', 'run:end', 'retry', 'run:start', 'run:error', 'run:end', 'settle'
  ])
  t.same(events(seen, 'rejects'), ['add', 'run:start', 'run:end', 'run:error', 'run:asyncStart', 'run:asyncEnd', 'settle'])
  for (const [event, message] of seen) {
    if (['run:error', 'run:asyncStart', 'run:asyncEnd', 'retry', 'settle'].includes(event)) t.equal(message.error, boom, event)
    t.equal(message.requestId, null)
  }
  t.same(seen.filter(([event, { name }]) => name === 'throws' && event === 'run:start').map(([, { attempt }]) => attempt), [1, 2])
})

test('a defined task with a timeout: abandoned, settled, and later at its end', async t => {
  const gate = signal()
  const slow = defineTask('slow', async () => {
    await gate.promise
    return 'in the end'
  }, { timeout: 10 })
  const { app } = await createApp(t, { tasks: [slow] })
  const seen = listenTo(t)
  app.backgroundTasks.add(slow)
  await settled(app, { failed: 1, abandoned: 1 })
  t.same(events(seen, 'slow'), ['add', 'run:start', 'run:end', 'abandon', 'settle'])
  t.match(seen.at(-2)![1], { attempt: 1, error: { code: 'FST_BGT_TIMEOUT' } })
  t.match(seen.at(-1)![1], { state: 'failed', error: { code: 'FST_BGT_TIMEOUT' } })
  gate.resolve()
  await settled(app, { failed: 1 })
  t.same(events(seen, 'slow').slice(5), ['run:asyncStart', 'run:asyncEnd'])
  t.equal(seen.at(-1)![1].result, 'in the end')
})

test('tasks that do not run: dropped with a reason, cancelled, replaced', async t => {
  const { app } = await createApp(t, { onFailure: 'stop' })
  const seen = listenTo(t)
  app.get('/', async request => {
    request.backgroundTasks.add({ name: 'only on failure', runOn: 'failure' }, () => {})
    request.backgroundTasks.add({ name: 'replaced', key: 'k' }, () => {})
    request.backgroundTasks.add({ name: 'last', key: 'k' }, () => {})
    await request.backgroundTasks.add({ name: 'cancelled' }, () => {}).cancel()
    request.backgroundTasks.add({ name: 'odd', runOn: () => { throw new Error('in the predicate') } }, () => {})
    request.backgroundTasks.add({ name: 'failing' }, () => { throw new Error('boom') })
    request.backgroundTasks.add({ name: 'behind' }, () => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1, dropped: 2, replaced: 1, cancelled: 1, failed: 2 })
  const reasons = seen.filter(([event]) => event === 'drop').map(([, { name, reason }]) => [name, reason])
  t.same(reasons, [['only on failure', "runOn: 'failure'"], ['behind', 'a task before it failed']])
  const ends = seen.filter(([event]) => event === 'settle').map(([, { name, state, error }]) => [name, state, (error as Error | undefined)?.message])
  t.same(ends, [
    ['replaced', 'replaced', undefined],
    ['cancelled', 'cancelled', undefined],
    ['only on failure', 'dropped', undefined],
    ['odd', 'failed', 'in the predicate'],
    ['last', 'completed', undefined],
    ['failing', 'failed', 'boom'],
    ['behind', 'dropped', undefined]
  ])
})

test('what is left at close', async t => {
  const { app } = await createApp(t, { closeTimeout: 10 })
  const seen = listenTo(t)
  const running = signal()
  app.backgroundTasks.add({ name: 'endless' }, () => {
    running.resolve()
    return new Promise(() => {})
  })
  app.backgroundTasks.add({ name: 'delayed', delay: 60_000 }, () => {})
  await running.promise
  await app.close()
  t.same(events(seen, 'endless'), ['add', 'run:start', 'run:end', 'abandon', 'settle'])
  t.same(events(seen, 'delayed'), ['add', 'drop', 'settle'])
  t.equal(seen.find(([event]) => event === 'drop')![1].reason, 'the application has closed')
  t.same(seen.filter(([event]) => event === 'settle').map(([, { name, state }]) => `${name} ${state}`).sort(), ['delayed dropped', 'endless failed'])
})

test('the settle channel alone: the error is there', async t => {
  const { app } = await createApp(t)
  const seen = listenTo(t, ['settle'])
  app.backgroundTasks.add(() => { throw new Error('boom') })
  await settled(app, { failed: 1 })
  t.match(seen, [['settle', { state: 'failed', error: { message: 'boom' } }]])
})

test('a store that is bound to the start of runs is there in the task, and in its own asynchronous work', async t => {
  const { app } = await createApp(t)
  const store = new AsyncLocalStorage<string>()
  const outer = new AsyncLocalStorage<string>()
  const runs = tracingChannel<unknown, RunMessage>('fastify-background-tasks.run')
  runs.start.bindStore(store, message => `run of ${message.name}`)
  t.teardown(() => runs.start.unbindStore(store))
  const seen: unknown[] = []
  outer.run('outside', () => {
    app.backgroundTasks.add(async function bound () {
      seen.push(store.getStore(), outer.getStore())
      await undefined
      seen.push(store.getStore())
    })
  })
  await settled(app, { completed: 1 })
  t.same(seen, ['run of bound', 'outside', 'run of bound'])
  t.equal(store.getStore(), undefined)
})

test('two registrations can be told apart, and a subscriber may call a task off', async t => {
  const { app } = await createApp(t)
  const other = await createApp(t)
  const seen = listenTo(t, ['settle'])
  const onAdd = (message: unknown) => {
    const { app, task } = message as TaskMessage
    if (app === other.app.backgroundTasks) task.cancel()
  }
  channel('fastify-background-tasks.add').subscribe(onAdd)
  t.teardown(() => channel('fastify-background-tasks.add').unsubscribe(onAdd))
  other.app.get('/', async request => {
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(other.app)
  app.backgroundTasks.add(() => {})
  other.app.backgroundTasks.add(() => {})
  await fetch(url)
  await settled(app, { completed: 1 })
  await settled(other.app, { cancelled: 2 })
  await other.app.backgroundTasks.idle()
  t.same(seen.map(([, message]) => [message.app === app.backgroundTasks, (message as unknown as SettleMessage).state]).sort(), [[false, 'cancelled'], [false, 'cancelled'], [true, 'completed']].sort())
})

test('a subscriber that cancels the next task while a failure drops the rest', async t => {
  const { app } = await createApp(t, { onFailure: 'stop' })
  const handles: TaskHandle[] = []
  const onDrop = () => { handles[2]!.cancel() }
  channel('fastify-background-tasks.drop').subscribe(onDrop)
  t.teardown(() => channel('fastify-background-tasks.drop').unsubscribe(onDrop))
  app.get('/', async request => {
    handles.push(
      request.backgroundTasks.add({ name: 'failing' }, () => { throw new Error('boom') }),
      request.backgroundTasks.add({ name: 'dropped' }, () => {}),
      request.backgroundTasks.add({ name: 'cancelled' }, () => {})
    )
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1, dropped: 1, cancelled: 1 })
  t.same(handles.map(({ state }) => state), ['failed', 'dropped', 'cancelled'])
})

test('a stored task: settled where it was added, and run with what came along', async t => {
  const task = defineTask('stored-task', async () => {})
  const backend = new StubBackend()
  const { app } = await createApp(t, { tasks: [task], backend })
  const seen = listenTo(t)
  await app.ready()
  app.backgroundTasks.add(task)
  await app.backgroundTasks.flush()
  t.same(events(seen, 'stored-task'), ['add', 'settle'])
  t.equal(seen[1]![1].state, 'stored')
  t.equal(backend.written[0]![0]!.carrier, null)
  await backend.deliver({ name: 'stored-task', requestId: 'req-7', carrier: { traceparent: '00-1-2-3' } }, { attempt: 3 })
  t.same(events(seen, 'stored-task').slice(2), ['run:start', 'run:end', 'run:asyncStart', 'run:asyncEnd', 'settle'])
  t.match(seen[2]![1], { attempt: 3, requestId: 'req-7', carrier: { traceparent: '00-1-2-3' }, id: '11111111-2222-4333-8444-555555555555' })
})

test('with mode capture tasks are added and settled, and none runs', async t => {
  const { app } = await createApp(t, { mode: 'capture' })
  const seen = listenTo(t)
  app.backgroundTasks.add(function captured () {})
  await settled(app, { captured: 1 })
  t.same(events(seen, 'captured'), ['add', 'settle'])
})
