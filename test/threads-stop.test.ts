import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'tap'
import { defineTask } from '../index'
import { begun, block, createApp, resultOf, settled, turns } from './support/server'
import { moduleFile } from './support/threads'

const WHERE = "import { threadId } from 'node:worker_threads'\nexport default async () => threadId"
const SPIN = "export default (payload, ctx) => { ctx.progress('begun'); for (;;); }"

test('at its timeout a handler that holds its thread is ended, thread and all', async t => {
  const spin = defineTask('spin', moduleFile(t, SPIN), { timeout: 20 })
  const where = defineTask<undefined, number>('where', moduleFile(t, WHERE))
  const { app, log } = await createApp(t, { tasks: [spin, where], threads: { max: 1 } })
  const before = await resultOf(app, where)
  t.equal(await app.backgroundTasks.add(spin).settled(), 'failed')
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_TIMEOUT', message: /'spin' took longer than its timeout of 20 ms/ } })
  t.equal(app.backgroundTasks.stats().abandoned, 1, 'the thread has a moment to end')
  const after = await resultOf(app, where)
  t.not(after, before, 'the next task got a new one')
  await settled(app, { failed: 1, completed: 2 })
})

test('the signal aborts with the reason; a handler that listens can clean up, and keeps its thread', async t => {
  const note = moduleFile(t, '', 'txt')
  const listens = defineTask('listens', moduleFile(t, `
    import { once } from 'node:events'
    import { writeFileSync } from 'node:fs'
    import { threadId } from 'node:worker_threads'
    export default async (payload, { signal, progress }) => {
      progress(threadId)
      await once(signal, 'abort')
      const { name, code, message } = signal.reason
      writeFileSync(${JSON.stringify(note)}, JSON.stringify({ name, code, message }))
    }`))
  const where = defineTask<undefined, number>('where', moduleFile(t, WHERE))
  const { app } = await createApp(t, { tasks: [listens, where], threads: { max: 1 } })
  // With both modules loaded, which would otherwise be part of the time.
  await app.ready()
  for (const [options, state, code] of [[{ timeout: 20 }, 'failed', 'FST_BGT_TIMEOUT'], [{}, 'cancelled', 'FST_BGT_CANCELLED']] as const) {
    const handle = app.backgroundTasks.add(options, listens)
    const { id } = handle
    const thread = await begun(app, id)
    if (state === 'cancelled') t.equal(await handle.cancel(), true)
    t.equal(await handle.settled(), state)
    t.equal(await resultOf(app, where), thread)
    t.match(JSON.parse(readFileSync(note, 'utf8')), { name: 'FastifyError', code, message: /The background task 'listens' (took longer|was cancelled)/ })
    t.equal(app.backgroundTasks.stats().abandoned, 0)
  }
})

test('cancel() ends a thread whose handler does not listen', async t => {
  const spin = defineTask('spin', moduleFile(t, SPIN))
  const where = defineTask<undefined, number>('where', moduleFile(t, WHERE))
  const { app } = await createApp(t, { tasks: [spin, where], threads: { max: 1 } })
  const handle = app.backgroundTasks.add(spin)
  await begun(app, handle.id)
  t.equal(await handle.cancel(), true)
  t.equal(handle.state, 'cancelled')
  await resultOf(app, where)
  await settled(app, { cancelled: 1, completed: 1 })
})

test('cancel() of one that waits for a thread', async t => {
  const marker = moduleFile(t, '', 'txt')
  const spin = defineTask('spin', moduleFile(t, SPIN))
  const marks = defineTask('marks', moduleFile(t, `
    import { appendFileSync } from 'node:fs'
    export default () => appendFileSync(${JSON.stringify(marker)}, 'ran')`))
  const { app } = await createApp(t, { tasks: [spin, marks], threads: { max: 1 } })
  const busy = app.backgroundTasks.add(spin)
  await begun(app, busy.id)
  const waits = app.backgroundTasks.add(marks)
  await turns()
  t.equal(waits.state, 'running')
  const abandoned: unknown[] = []
  const onAbandon = (message: unknown) => { abandoned.push(message) }
  subscribe('fastify-background-tasks.abandon', onAbandon)
  t.teardown(() => unsubscribe('fastify-background-tasks.abandon', onAbandon))
  const cancelled = waits.cancel()
  t.equal(app.backgroundTasks.stats().abandoned, 0, 'nothing of it runs')
  t.equal(await cancelled, true)
  await turns()
  t.equal(app.backgroundTasks.stats().abandoned, 0)
  t.same(abandoned, [])
  t.equal(await busy.cancel(), true)
  t.equal(readFileSync(marker, 'utf8'), '')
})

test('the time that a task waits for a thread is not its own', async t => {
  const slow = defineTask('slow', moduleFile(t, `
    import { setTimeout as sleep } from 'node:timers/promises'
    export default () => sleep(700)`))
  const quick = defineTask('quick', moduleFile(t, 'export default () => {}'), { timeout: 500 })
  const { app } = await createApp(t, { tasks: [slow, quick], threads: { max: 1 } })
  app.backgroundTasks.add(slow)
  app.backgroundTasks.add(quick)
  await settled(app, { completed: 2 })
})

test('what ended in time has done so, even if the main thread was busy until the time was over', async t => {
  const end = moduleFile(t, '', 'txt')
  const task = defineTask('task', moduleFile(t, `
    import { existsSync } from 'node:fs'
    import { setTimeout as sleep } from 'node:timers/promises'
    export default async (payload, { progress }) => {
      progress('begun')
      while (!existsSync(${JSON.stringify(`${end}.now`)})) await sleep(1)
      return 'in time'
    }`), { timeout: 1_000, attempts: 2 })
  const { app } = await createApp(t, { tasks: [task] })
  const handle = app.backgroundTasks.add(task)
  const { id } = handle
  await begun(app, id)
  writeFileSync(`${end}.now`, '')
  block(1_100)
  t.equal(await handle.settled(), 'completed')
  t.match(await app.backgroundTasks.find(id), { result: 'in time', attempts: 1 })
})

test('a task that has timed out is tried again on another thread', async t => {
  const task = defineTask('task', moduleFile(t, `
    import { threadId } from 'node:worker_threads'
    export default (payload, { attempt }) => {
      if (attempt === 1) for (;;);
      return attempt
    }`), { timeout: 100, attempts: 2 })
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  t.equal(await resultOf(app, task), 2)
  await settled(app, { completed: 1, retried: 1 })
})

test('a module that does not load has its timeout, too', async t => {
  const hangs = defineTask('hangs', moduleFile(t, `
    await new Promise(resolve => { setTimeout(resolve, 60_000) })
    export default () => {}`), { timeout: 50 })
  const where = defineTask<undefined, number>('where', moduleFile(t, WHERE))
  const { app, log } = await createApp(t, { tasks: [hangs, where], threads: { max: 1 } })
  // Before the application is ready, and so before it has been tried: it would not be.
  t.equal(await app.backgroundTasks.add(hangs).settled(), 'failed')
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_TIMEOUT' } })
  t.type(await resultOf(app, where), 'number')
  await settled(app, { failed: 1, completed: 1 })
})

test('what is logged after the timeout is that attempt\'s, although the next one has begun', async t => {
  const task = defineTask('task', moduleFile(t, `
    import { once } from 'node:events'
    import { setTimeout as sleep } from 'node:timers/promises'
    export default async (payload, { attempt, log, signal }) => {
      if (attempt === 2) return
      await once(signal, 'abort')
      await sleep(50)
      log.info('cleaned up')
    }`), { attempts: 2, timeout: 300 })
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  await app.ready()
  t.equal(await app.backgroundTasks.add(task).settled(), 'completed')
  t.match(log.find(({ msg }) => msg === 'cleaned up'), { task: { name: 'task', attempt: 1 } })
})
