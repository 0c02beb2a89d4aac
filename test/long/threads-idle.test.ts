import { once } from 'node:events'
import { queryObjects } from 'node:v8'
import type { Worker } from 'node:worker_threads'
import { test } from 'tap'
import { defineTask } from '../../index'
import { ThreadChannel } from '../../lib/threads/channel'
import { gc } from '../support/garbage'
import { createApp, listen, resultOf } from '../support/server'
import { moduleFile } from '../support/threads'
import { until } from '../support/until'

/** How many channels there are that something keeps. */
function channels (): number {
  gc()
  return queryObjects(ThreadChannel, { format: 'count' })
}

test('threads that end because they have nothing to do leave nothing behind, however many of them', async t => {
  const task = defineTask<undefined, number>('task', moduleFile(t, 'export default () => 1'))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 2, idleTimeout: 1 } })
  const exits: Array<Promise<unknown>> = []
  const onWorker = (worker: Worker) => { exits.push(once(worker, 'exit')) }
  process.on('worker', onWorker)
  t.teardown(() => process.off('worker', onWorker))
  await listen(app)
  const heaps: number[] = []
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 10; i++) {
      await Promise.all([resultOf(app, task), resultOf(app, task)])
      for (let seen = 0; seen !== exits.length;) {
        seen = exits.length
        await Promise.all(exits)
      }
    }
    await until('no channel is left', () => channels() === 0)
    heaps.push(process.memoryUsage().heapUsed)
  }
  t.ok(exits.length >= 40, `${exits.length} threads`)
  const growth = heaps[3]! / heaps[1]!
  t.ok(growth < 1.05, `the heap is ${growth.toFixed(3)} of what it was 20 rounds before`)
})
