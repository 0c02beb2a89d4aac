import { once } from 'node:events'
import { test } from 'tap'
import { defineTask, type TaskContext } from '../index'
import { createApp, settled, signal, turns, type LogLine } from './support/server'
import { ends } from './support/until'

// When closeTimeout is over, signals abort, and the tasks that listen get a last moment to end.

const unfinished = (log: LogLine[]) => log.filter(({ msg }) => msg === 'background task did not end before the application closed')

test('a task that listens to its signal ends in time', async t => {
  const defined = defineTask('defined', async (_payload: undefined, ctx: TaskContext) => {
    const aborted = once(ctx.signal, 'abort')
    await aborted
    codes.push(ctx.signal.reason.code)
  })
  const { app, log } = await createApp(t, { closeTimeout: 200, tasks: [defined] })
  const codes: string[] = []
  app.backgroundTasks.add({ signal: true }, async (name: string, signal: AbortSignal) => {
    t.equal(name, 'plain')
    await once(signal, 'abort')
    codes.push(signal.reason.code)
  }, 'plain')
  app.backgroundTasks.add(defined)
  app.backgroundTasks.add({ name: 'gives up', signal: true }, async (signal: AbortSignal) => {
    await once(signal, 'abort')
    throw signal.reason
  })
  await turns()
  await app.close()
  t.same(codes, ['FST_BGT_CLOSE_TIMEOUT', 'FST_BGT_CLOSE_TIMEOUT'])
  t.same(unfinished(log), [])
  t.match(log.filter(({ level }) => level === 50), [{ msg: 'background task failed', task: { name: 'gives up' }, err: { code: 'FST_BGT_CLOSE_TIMEOUT' } }])
  await settled(app, { completed: 2, failed: 1 })
})

test('a task that looks at its signal only after it has aborted sees that it has', async t => {
  const seen: boolean[] = []
  const [over, go] = [signal(), signal()]
  const late = defineTask('late', async (_payload: undefined, ctx: TaskContext) => {
    await go.promise
    seen.push(ctx.signal.aborted)
  })
  const { app, log } = await createApp(t, { closeTimeout: 200, tasks: [late] })
  app.backgroundTasks.add(late)
  app.backgroundTasks.add({ signal: true }, async (signal: AbortSignal) => {
    await once(signal, 'abort')
    over.resolve()
  })
  await turns()
  const closed = app.close()
  await over.promise
  go.resolve()
  await closed
  t.same(seen, [true])
  t.same(unfinished(log), [])
})

test('a task that starts only then has an aborted signal from the start, on its next attempt too', async t => {
  const { app } = await createApp(t, { closeTimeout: 1_000 })
  const seen: Array<[string, boolean]> = []
  const running = signal()
  app.get('/', async request => {
    request.backgroundTasks.add({ signal: true, attempts: 3 }, async (signal: AbortSignal) => {
      seen.push(['first', signal.aborted])
      running.resolve()
      if (!signal.aborted) await once(signal, 'abort')
      throw signal.reason
    })
    request.backgroundTasks.add({ signal: true }, async (signal: AbortSignal) => { seen.push(['second', signal.aborted]) })
    return 'x'
  })
  await app.inject('/')
  await running.promise
  await app.close()
  t.same(seen, [['first', false], ['second', true], ['first', true], ['first', true]])
  t.match(app.backgroundTasks.stats(), { accepted: 2, completed: 1, failed: 1, retried: 2 })
})

test('a task that ends at its abort is counted apart from one that does not', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 40 })
  const ends = app.backgroundTasks.add({ name: 'ends', signal: true }, async (signal: AbortSignal) => { await once(signal, 'abort') })
  const deaf = app.backgroundTasks.add({ name: 'deaf', signal: true }, async (_signal: AbortSignal) => { await new Promise(() => {}) })
  await turns()
  await app.close()
  t.equal(ends.state, 'completed')
  t.equal(deaf.state, 'failed')
  t.match(unfinished(log), [{ task: { name: 'deaf', state: 'running', attempt: 1 } }])
  t.match(app.backgroundTasks.stats(), { completed: 1, failed: 1, abandoned: 1 })
})

test('close is bounded: closeTimeout, and a share of it for the last moment', async t => {
  const closeTimeout = 300
  const { app } = await createApp(t, { closeTimeout })
  app.backgroundTasks.add({ signal: true }, async (_signal: AbortSignal) => { await new Promise(() => {}) })
  await turns()
  const start = performance.now()
  await ends('the close', app.close())
  const took = performance.now() - start
  t.ok(took >= closeTimeout * 1.1 - 5, `${took} ms`)
})

test('closeTimeout: 0 waits for nothing, and reports', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 0 })
  app.backgroundTasks.add({ name: 'running', signal: true }, async (signal: AbortSignal) => { await once(signal, 'abort') })
  app.backgroundTasks.add({ name: 'delayed', delay: 1_000 }, () => t.fail('must not run'))
  await turns()
  await app.close()
  t.match(unfinished(log).filter(({ task }) => task!.name === 'delayed'), [{ task: { state: 'pending' } }])
  const { accepted, completed, failed, dropped } = app.backgroundTasks.stats()
  t.equal(accepted, completed + failed + dropped)
})
