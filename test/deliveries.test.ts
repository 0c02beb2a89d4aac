import { once } from 'node:events'
import { test, type Test } from 'tap'
import { defineTask, UnrecoverableError, type BackgroundTasksOptions, type TaskContext } from '../index'
import { createApp as createPlainApp, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'

// How this process runs what a backend hands to it; the backend is a stub.

async function createApp (t: Test, tasks: BackgroundTasksOptions['tasks'], options: BackgroundTasksOptions = {}) {
  const backend = new StubBackend()
  const { app, log } = await createPlainApp(t, { backend, tasks: tasks!, ...options })
  await app.ready()
  return { app, log, backend }
}

test('an attempt that succeeds, with its context', async t => {
  const contexts: object[] = []
  const progress: unknown[] = []
  const task = defineTask('task', async (payload: unknown, ctx: TaskContext) => {
    contexts.push({ payload, id: ctx.id, name: ctx.name, attempt: ctx.attempt, requestId: ctx.requestId })
    ctx.progress(50)
    ctx.log.info('from the task')
    return 'result'
  })
  const { app, backend, log } = await createApp(t, [task])
  const id = '99999999-2222-4333-8444-555555555555'
  t.same(await backend.deliver({ id, name: 'task', label: 'label', payload: '{"a":1}', requestId: 'req-9', attempts: 5 }, { attempt: 3, progress: value => { progress.push(value) } }),
    { state: 'completed', result: 'result' })
  t.same(contexts, [{ payload: { a: 1 }, id, name: 'label', attempt: 3, requestId: 'req-9' }])
  t.same(progress, [50])
  t.match(log.filter(({ msg }) => msg === 'from the task'), [{ reqId: 'req-9', task: { id, name: 'label', attempt: 3 } }])
  t.same(await backend.deliver({ name: 'task' }), { state: 'completed', result: 'result' })
  t.match(contexts[1], { payload: undefined, requestId: null, attempt: 1 })
  t.match(app.backgroundTasks.stats(), { completed: 2, accepted: 2 })
})

test('a failed attempt is the backend\'s to try again; only the last one is reported as a failure', async t => {
  const errors: unknown[] = []
  const task = defineTask('task', async () => { throw new Error('boom') }, { attempts: 3, backoff: 60_000 })
  const { app, backend, log } = await createApp(t, [task], { onError: error => { errors.push(error) } })
  t.match(await backend.deliver({ name: 'task', attempts: 2 }, { attempt: 1 }), { state: 'failed', error: { message: 'boom' } })
  t.same(errors, [])
  t.equal(log.filter(({ msg }) => msg === 'background task will be tried again').length, 1)
  t.match(await backend.deliver({ name: 'task', attempts: 2 }, { attempt: 2 }), { state: 'failed', error: { message: 'boom' } })
  t.match(errors, [{ message: 'boom' }])
  t.match(app.backgroundTasks.stats(), { stored: 1, failed: 1, retried: 1 })
})

test('a task that throws undefined has failed', async t => {
  const task = defineTask('task', async () => { throw undefined }) // eslint-disable-line no-throw-literal -- what is no error is what is tested
  const { backend } = await createApp(t, [task])
  t.same(await backend.deliver({ name: 'task' }), { state: 'failed', error: undefined })
})

test('an unknown definition is no attempt', async t => {
  const { backend } = await createApp(t, [])
  const end = await backend.deliver({ name: 'unknown' })
  t.match(end, { state: 'not attempted', reason: { code: 'FST_BGT_UNKNOWN_TASK' } })
  t.ok((end as { delay: number }).delay > 0)
})

test('the delivery\'s signal calls the task off: while it runs, before, and while it waits', async t => {
  const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => {
    running.resolve()
    await once(ctx.signal, 'abort')
  })
  const running = signal()
  const { backend } = await createApp(t, [task], { concurrency: 1 })
  const controller = new AbortController()
  const first = backend.deliver({ name: 'task' }, { signal: controller.signal })
  await running.promise
  const second = backend.deliver({ name: 'task' }, { signal: controller.signal })
  t.same(await backend.deliver({ name: 'task' }, { signal: AbortSignal.abort() }), { state: 'cancelled' })
  controller.abort()
  t.same(await first, { state: 'cancelled' })
  t.same(await second, { state: 'cancelled' })
})

test('what the close cuts off is no attempt, and no failure', async t => {
  const began = signal()
  let running = 0
  const start = () => { if (++running === 3) began.resolve() }
  const listens = defineTask('listens', async (_payload: undefined, ctx: TaskContext) => {
    start()
    await once(ctx.signal, 'abort')
    throw ctx.signal.reason
  })
  const wraps = defineTask('wraps', async (_payload: undefined, ctx: TaskContext) => {
    start()
    await once(ctx.signal, 'abort')
    throw new Error('aborted', { cause: ctx.signal.reason })
  })
  const deaf = defineTask('deaf', async () => {
    start()
    await new Promise(() => {})
  })
  const other = defineTask('other', async (_payload: undefined, ctx: TaskContext) => {
    start()
    await once(ctx.signal, 'abort')
    throw null // eslint-disable-line no-throw-literal -- what is no error is what is tested
  })
  const final = defineTask('final', async (_payload: undefined, ctx: TaskContext) => {
    start()
    await once(ctx.signal, 'abort')
    throw new UnrecoverableError('no use')
  })
  const { app, backend, log } = await createApp(t, [listens, wraps, deaf, other, final], { closeTimeout: 50, concurrency: 5 })
  const ends = ['listens', 'wraps', 'deaf', 'other', 'final', 'deaf'].map(name => backend.deliver({ name }))
  await began.promise
  await turns()
  await app.close()
  const expected = { state: 'not attempted', reason: { code: 'FST_BGT_CLOSE_TIMEOUT' }, delay: 0 }
  t.match(await ends[0], expected, 'one that throws the reason')
  t.match(await ends[1], expected, 'one that wraps it')
  t.match(await ends[2], expected, 'one that takes no notice')
  t.match(await ends[3], expected, 'one that has a reason of its own')
  t.match(await ends[4], { state: 'failed', error: { message: 'no use' } }, 'one for which another attempt is no use')
  t.equal((await ends[5])!.state, 'not attempted', 'one that never began')
  t.match(log.filter(({ msg }) => msg === 'background task failed'), [{ task: { name: 'final' } }])
  t.match(app.backgroundTasks.stats(), { accepted: 6, failed: 1, stored: 5, dropped: 0 }, 'nor is it counted as one')
  t.match(await backend.deliver({ name: 'listens' }), { state: 'not attempted', reason: { code: 'FST_BGT_CLOSED' }, delay: 0 })
})

test('what has not begun when the application closes is given back, not dropped', async t => {
  const began = signal()
  const deaf = defineTask('deaf', async () => {
    began.resolve()
    await new Promise(() => {})
  })
  const errors: string[] = []
  const { app, backend, log } = await createApp(t, [deaf], { closeTimeout: 10, concurrency: 1, onError: (_error, { state }) => { errors.push(state) } })
  const ends = [backend.deliver({ name: 'deaf' }), backend.deliver({ name: 'deaf' })]
  await began.promise
  await app.close()
  t.same((await Promise.all(ends)).map(({ state }) => state), ['not attempted', 'not attempted'])
  t.match(app.backgroundTasks.stats(), { accepted: 2, stored: 2, dropped: 0, failed: 0 })
  t.match(log.filter(({ level }) => level >= 50), [{ task: { state: 'running' } }], 'an alarm for the one that was cut off alone')
  t.same(errors, ['running'])
})
