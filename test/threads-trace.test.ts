import { join } from 'node:path'
import { test } from 'tap'
import { defineTask, type TaskHandle } from '../index'
import { createApp } from './support/server'
import { telemetry } from './support/telemetry'
import { folder, moduleFile } from './support/threads'

// Stands for an instrumentation that the thread has set up: what it is given is active while the handler runs.
const handler = `
import { AsyncLocalStorage } from 'node:async_hooks'
import { createRequire } from 'node:module'
const { setPropagation } = createRequire(import.meta.url)(${JSON.stringify(join(folder, 'lib', 'observe', 'propagation.js'))})
const active = new AsyncLocalStorage()
setPropagation({ inject: () => ({}), refused: () => {}, extract: (carrier, fn) => active.run(carrier, fn), run: (task, fn) => fn() })
export default async () => active.getStore()
`

test('the trace of an attempt goes on in its thread', async t => {
  const { span } = telemetry(t)
  const task = defineTask<undefined, unknown>('traced', moduleFile(t, handler))
  const { app } = await createApp(t, { tasks: [task] })
  let handle: TaskHandle | undefined
  app.get('/', async request => {
    handle = request.backgroundTasks.add(task)
    return handle.id
  })
  const id = (await app.inject('/')).body
  t.equal(await handle!.settled(), 'completed')
  const { traceId, spanId } = span('process traced').spanContext()
  t.match((await app.backgroundTasks.find(id))!.result, { traceparent: `00-${traceId}-${spanId}-01` })
})

test('so does that of an attempt which had to wait for a thread', async t => {
  const { span } = telemetry(t)
  const task = defineTask<undefined, unknown>('traced', moduleFile(t, handler))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  await app.ready()
  // Tasks of the application do not wait for each other.
  const handles = ['first', 'second'].map(name => app.backgroundTasks.add({ name }, task))
  for (const handle of handles) {
    const { id, name } = handle
    t.equal(await handle.settled(), 'completed')
    const { traceId, spanId } = span(`process ${name}`).spanContext()
    t.match((await app.backgroundTasks.find(id))!.result, { traceparent: `00-${traceId}-${spanId}-01` })
  }
})

test('without an instrumentation there is nothing to go on with', async t => {
  const task = defineTask<undefined, unknown>('plain', moduleFile(t, handler))
  const { app } = await createApp(t, { tasks: [task] })
  await app.ready()
  const handle = app.backgroundTasks.add(task)
  const { id } = handle
  t.equal(await handle.settled(), 'completed')
  t.equal((await app.backgroundTasks.find(id))!.result, undefined)
})
