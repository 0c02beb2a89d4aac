import { createPostgresBackend, Queue, withBackend, Worker } from 'bullmq'
import Redis from 'ioredis'
import { randomUUID } from 'node:crypto'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { dashboard } from '../../lib/dashboard'
import { until } from '../support/until'
import { listPage, openStream } from '../support/dashboard'
import { createApp, listen } from '../support/server'
import { noPostgres, noRedis, postgres, redis } from '../support/services'

/* A job may have been added by another program, or changed by hand. */

/** The data of a job, or its options, that are no task's, and what is said of them. */
const UNUSABLE: Array<[data: unknown, reason: RegExp, opts?: object]> = [
  ['text', /its data is 'text'/],
  [[], /its data is \[\]/],
  [{ label: null }, /its field 'label' is null/],
  [{ payload: { n: 1 } }, /its field 'payload' is \{ n: 1 \}/],
  [{ requestId: 5 }, /its field 'requestId' is 5/],
  [{ timeout: 'long' }, /its field 'timeout' is 'long'/],
  [{ carrier: 'x' }, /its field 'carrier' is 'x'/],
  [{}, /its field 'backoff' is /, { backoff: { type: 'of its own', delay: 1 } }]
]

interface Job { id: string, reason: RegExp }

/**
 * Adds jobs that cannot be used, and sees what becomes of them.
 * @param connect opens the queue as another program does
 * @param damage makes further jobs that cannot be used
 */
async function unusable (t: Test, url: string, connect: (queue: string) => Queue, damage: (queue: string) => Promise<Job[]> = async () => []): Promise<void> {
  const queue = `unusable-${randomUUID()}`
  const options = () => bullmq({ connection: url, queue })
  const ran: string[] = []
  const task = defineTask('task', async (name: string) => { ran.push(name) })
  const web = await createApp(t, { tasks: [task], backend: options(), worker: false })
  await web.app.register(dashboard, { prefix: '/tasks' })
  const address = await listen(web.app)
  const other = connect(queue)
  t.teardown(() => other.close())
  const jobs = await damage(queue)
  for (const [data, reason, opts = {}] of UNUSABLE) {
    const id = randomUUID()
    await other.add('task', data, { ...opts, jobId: id, attempts: 3 })
    jobs.push({ id, reason })
  }
  await other.add('task', { payload: '"of another program"', timeout: 1e12 }, { jobId: randomUUID() })
  const ids = jobs.map(({ id }) => id).sort()
  const viewer = await openStream(t, `${address.url}/tasks/events`)
  await viewer.until(({ totals }) => totals.waiting > ids.length)
  t.same((await listPage(`${address.url}/tasks`, 'waiting')).tasks.map(({ id }) => id).filter(id => ids.includes(id)).sort(), ids, 'they are shown while they wait')
  t.match(await web.app.backgroundTasks.find(jobs[0]!.id), { id: jobs[0]!.id, state: 'pending' })

  const { app, log } = await createApp(t, { tasks: [task], backend: options() })
  await app.ready()
  t.equal(await app.backgroundTasks.add(task, 'mine').settled(), 'completed', 'behind all of them')
  for (const { id, reason } of jobs) {
    const info = await until(`the end of ${id}`, async () => {
      const info = await app.backgroundTasks.find(id)
      return info!.state === 'failed' && info
    })
    t.match(info.error, { message: reason })
    const lines = log.filter(({ task }) => task?.id === id)
    t.match(lines, [{ level: 50, msg: 'background task failed: what is stored of it cannot be used', err: { message: reason } }], 'it is said once')
  }
  t.same(ran.sort(), ['mine', 'of another program'])
  await viewer.until(({ totals }) => totals.failed === ids.length)
  t.same((await listPage(`${address.url}/tasks`, 'failed')).tasks.map(({ id }) => id).sort(), ids, 'they are shown when they have failed')
}

test('Redis: a job that cannot be used fails, which is logged with its id; the others run, and the dashboard shows all of them', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  const connect = (queue: string) => new Queue(queue, { connection: { url } })
  await unusable(t, url, connect, async name => {
    const queue = connect(name)
    const jobs: Job[] = []
    for (const [field, text] of [['data', 'not JSON'], ['data', 'null'], ['opts', 'not JSON'], ['opts', 'null'], ['progress', 'not JSON']] as const) {
      const id = randomUUID()
      await queue.add('task', {}, { jobId: id, attempts: 3 })
      await client.hset(queue.toKey(id), field, text)
      jobs.push({ id, reason: field === 'data' && text === 'null' ? /its data is null/ : new RegExp(`its '${field}' is '${text}'`) })
    }
    await queue.close()
    return jobs
  })
})

test('Postgres: a job that cannot be used fails, which is logged with its id; the others run, and the dashboard shows all of them', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const PostgresQueue = withBackend(createPostgresBackend).Queue
  await unusable(t, url, queue => new PostgresQueue(queue, { connection: { connectionString: url } as never }) as unknown as Queue)
})

test('Redis: an error of its worker that no job explains is trouble of the backend', { skip: noRedis }, async t => {
  const { url } = await redis(t)
  const { waitUntilReady } = Worker.prototype
  t.teardown(() => { Worker.prototype.waitUntilReady = waitUntilReady })
  const workers: Worker[] = []
  Worker.prototype.waitUntilReady = function () {
    workers.push(this)
    return waitUntilReady.call(this)
  }
  const task = defineTask('task', async () => {})
  const { app, log } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue: `trouble-${randomUUID()}` }) })
  await app.ready()
  workers[0]!.emit('error', new TypeError('of something else'))
  const line = await until('it is logged', () => log.find(({ msg }) => msg === 'BullMQ on Redis is in trouble'))
  t.match(line, { err: { message: 'of something else' } })
})
