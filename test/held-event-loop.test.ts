import { stat } from 'node:fs'
import { test } from 'tap'
import { defineTask } from '../index'
import { getAndLeave } from './support/client'
import { begun, block, createApp, resultOf, settled, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { moduleFile } from './support/threads'

// A synchronous function, or a collection of garbage, holds the event loop until a time is over. What came in time counts.

/** Milliseconds of the times below, which are over when the event loop is let go. */
const TIME = 100

/** Resolves with what the operating system has answered while the event loop was held. */
function answerWhileHeld (): Promise<void> {
  return new Promise(resolve => {
    setImmediate(() => {
      stat(__filename, () => resolve())
      block(2 * TIME)
    })
  })
}

test('timeout', async t => {
  const { app } = await createApp(t)
  let runs = 0
  const handle = app.backgroundTasks.add({ timeout: TIME, attempts: 2 }, async () => {
    runs++
    await answerWhileHeld()
  })
  t.equal(await handle.settled(), 'completed')
  t.equal(runs, 1)
})

test('closeTimeout', async t => {
  const { app } = await createApp(t, { closeTimeout: TIME })
  const go = signal()
  const handle = app.backgroundTasks.add(async () => {
    await go.promise
    await answerWhileHeld()
  })
  await app.ready()
  const closed = app.close()
  await turns()
  go.resolve()
  await closed
  t.equal(handle.state, 'completed')
})

test('the grace of a task after its signal has aborted at closeTimeout', async t => {
  const { app } = await createApp(t, { closeTimeout: 10 * TIME })
  const handle = app.backgroundTasks.add({ signal: true }, async (signal: AbortSignal) => {
    await new Promise(resolve => { signal.addEventListener('abort', resolve) })
    await answerWhileHeld()
  })
  await app.ready()
  await app.close()
  t.equal(handle.state, 'completed')
})

test('storeTimeout', async t => {
  const task = defineTask('task', async () => {})
  const backend = new StubBackend()
  backend.onStore = async tasks => {
    await answerWhileHeld()
    return tasks.map(({ id }) => id)
  }
  backend.onFind = async () => {
    await answerWhileHeld()
    return null
  }
  const { app } = await createApp(t, { tasks: [task], backend, worker: false, storeTimeout: TIME })
  app.get('/', async request => request.backgroundTasks.add(task).id)
  const response = await app.inject('/')
  t.equal(response.statusCode, 200)
  t.equal(await app.backgroundTasks.find(response.body), null)
})

test('abortGrace', async t => {
  const { app } = await createApp(t, { abortGrace: TIME })
  const begun = signal()
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(() => {})
    const left = signal()
    reply.raw.once('close', left.resolve)
    begun.resolve()
    await left.promise
    await answerWhileHeld()
    throw new Error('no such order')
  })
  await getAndLeave(t, app, begun.promise)
  await settled(app, { dropped: 1 })
})

test('the grace of a handler on a thread after its signal has aborted', async t => {
  const ends = defineTask('ends', moduleFile(t, `
    import { once } from 'node:events'
    export default async (payload, { signal, progress }) => {
      progress('begun')
      await once(signal, 'abort')
    }`))
  const where = defineTask<undefined, number>('where', moduleFile(t, "import { threadId } from 'node:worker_threads'\nexport default () => threadId"))
  const { app } = await createApp(t, { tasks: [ends, where], threads: { max: 1 } })
  const before = await resultOf(app, where)
  t.match(before, Number)
  const handle = app.backgroundTasks.add(ends)
  await begun(app, handle.id)
  await handle.cancel()
  await turns(1)
  // A thread has 200 ms.
  block(300)
  t.equal(await resultOf(app, where), before, 'it goes on')
})
