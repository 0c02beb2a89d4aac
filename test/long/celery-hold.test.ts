import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { noRabbit, ownRabbit } from '../support/services'
import { until } from '../support/until'

const TEN_MINUTES_MS = 600_000

test('a task that waits for longer than ten minutes does not stay with one worker', { skip: noRabbit }, async t => {
  // Ten minutes pass at once, for modules that are loaded from now on.
  const { setTimeout } = globalThis
  globalThis.setTimeout = ((callback: () => void, ms: number, ...args: []) => setTimeout(callback, ms === TEN_MINUTES_MS ? 20 : ms, ...args)) as typeof setTimeout
  t.teardown(() => { globalThis.setTimeout = setTimeout })
  const { defineTask } = require('../../index') as typeof import('../../index')
  const { celery } = require('../../lib/backends/celery') as typeof import('../../lib/backends/celery')
  const { createApp } = require('../support/server') as typeof import('../support/server')
  const { url: broker } = await ownRabbit(t)
  const queue = randomUUID()
  let ran = 0
  const task = defineTask('task', async () => { ran++ })
  const start = async () => {
    const { app } = await createApp(t, { tasks: [task], backend: celery({ broker, queue }) })
    await app.ready()
    return app
  }
  const first = await start()
  const handle = first.backgroundTasks.add({ delay: 3 * TEN_MINUTES_MS }, task)
  await first.backgroundTasks.flush()
  await until('it is kept', () => first.backgroundTasks.find(handle.id))
  const second = await start()
  await until('the other one has it', () => second.backgroundTasks.find(handle.id))
  t.match(await until('it is found again', () => second.backgroundTasks.find(handle.id)), { state: 'pending', attempts: 0 })
  t.equal(ran, 0, 'not before its time')
})
