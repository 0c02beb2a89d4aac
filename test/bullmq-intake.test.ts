import type { Worker } from 'bullmq'
import { EventEmitter } from 'node:events'
import { test } from 'tap'
import { JobIntake } from '../lib/backends/bullmq/intake'
import type { TaskJob } from '../lib/backends/bullmq/jobs'
import { Intake } from '../lib/backends/intake'
import { turns } from './support/server'

// Orders that a server gives rarely: a worker fetches jobs at the same time as others end.

function setUp (threads = 1) {
  const worker = Object.assign(new EventEmitter(), { concurrency: 10 })
  const intake = new JobIntake(worker as unknown as Worker, new Intake(10, { names: new Set(['on a thread']), free: () => threads }))
  const promoted: string[] = []
  const fetch = (id: string, more: Partial<TaskJob> = {}) => {
    const job = { id, name: 'task', stalledCounter: 0, promote: async () => { promoted.push(id) }, ...more } as TaskJob
    worker.emit('active', job, 'waiting')
    return job
  }
  return { worker, intake, fetch, promoted }
}

test('of two jobs that are to run alone the second goes to another worker, as does all that is fetched meanwhile', async t => {
  const { worker, intake, fetch } = setUp()
  const running = fetch('running')
  t.equal(await intake.delayOf(running), null)
  const first = fetch('first', { stalledCounter: 1 })
  t.equal(worker.concurrency, 1, 'it fetches no more')
  const second = fetch('second', { stalledCounter: 2 })
  const other = fetch('other')
  const begins = intake.delayOf(first)
  let begun = false
  begins.then(() => { begun = true })
  for (const job of [second, other]) {
    t.equal(await intake.delayOf(job), 0)
    intake.ended(job)
  }
  await turns()
  t.notOk(begun)
  intake.ended(running)
  t.equal(await begins, null)
  t.equal(worker.concurrency, 1)
  intake.ended(first)
  t.equal(worker.concurrency, 10)
})

test('a job that is still being put aside when a thread becomes free is brought back when it has arrived', async t => {
  const { intake, fetch, promoted } = setUp()
  const running = fetch('running', { name: 'on a thread' })
  t.equal(await intake.delayOf(running), null)
  const aside = fetch('aside', { name: 'on a thread' })
  t.equal(await intake.delayOf(aside), 5_000)
  intake.ended(running)
  await turns()
  t.same(promoted, [])
  intake.ended(aside)
  await turns()
  t.same(promoted, ['aside'])
})

test('a job that BullMQ is to fail takes no place', async t => {
  const { worker, fetch } = setUp()
  fetch('failed', { stalledCounter: 6, deferredFailure: 'job stalled more than allowable limit' })
  t.equal(worker.concurrency, 10)
})
