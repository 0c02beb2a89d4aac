import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { celery } from '../../lib/backends/celery'
import { celeryWorker, noCelery } from '../support/celery'
import { createApp } from '../support/server'
import { ownRabbit, redis } from '../support/services'
import { until } from '../support/until'

// A task that Fastify has added, and whose Python process is killed in the middle: with `acks_late` and `reject_on_worker_lost`.

test('Python workers that are killed', { skip: noCelery }, async t => {
  const [{ url: broker }, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])

  /** Adds a task that runs until its gate opens. */
  async function add (t: Test) {
    const queue = randomUUID()
    const folder = t.testdir({})
    const [journal, gate] = [join(folder, 'journal'), join(folder, 'gate')]
    const late = defineTask<[string, string], number>('py.late')
    const { app } = await createApp(t, { tasks: [late], backend: celery({ broker, results, queue }), worker: false })
    app.post('/', async (request, reply) => {
      reply.code(202)
      return request.backgroundTasks.add(late, [journal, gate]).id
    })
    const response = await app.inject({ method: 'POST', url: '/' })
    t.equal(response.statusCode, 202)
    return {
      worker: (...args: string[]) => celeryWorker(t, { broker, results }, ['-Q', queue, ...args]),
      find: () => app.backgroundTasks.find(response.body),
      pids: () => existsSync(journal) ? readFileSync(journal, 'utf8').trim().split('\n').map(Number) : [],
      open: () => { writeFileSync(gate, '') },
      completed: () => until('its end', async () => {
        const info = await app.backgroundTasks.find(response.body)
        return info?.state === 'completed' && info
      }),
      /** Another task of the same kind, for its handle. */
      handle: async () => {
        const handle = app.backgroundTasks.add(late, [journal, gate])
        await app.backgroundTasks.flush()
        return handle
      }
    }
  }

  await t.test('the worker is killed: another one runs the task', async t => {
    const task = await add(t)
    const { child } = await task.worker()
    await until('it runs', () => task.pids().length === 1)
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
    t.match(await task.find(), { state: 'pending', error: undefined }, 'it has not failed')
    const handle = await task.handle()
    await task.worker()
    await until('it runs again', () => task.pids().length >= 2)
    task.open()
    const { result } = await task.completed()
    t.not(result, child.pid)
    t.ok(task.pids().includes(result as number))
    t.equal(await handle.settled(), 'completed')
    t.equal(task.pids().length, 3, 'once more for each')
  })

  await t.test('a process of its pool is killed: the worker itself has it run again', async t => {
    const task = await add(t)
    const { child, output } = await task.worker('--pool', 'prefork', '--concurrency', '1')
    await until('it runs', () => task.pids().length === 1)
    const [victim] = task.pids()
    t.not(victim, child.pid)
    process.kill(victim!, 'SIGKILL')
    await until('it runs again', () => task.pids().length === 2)
    t.match(await task.find(), { state: 'pending', error: undefined }, 'it has not failed')
    await until('it says so', () => output().includes('signal 9'))
    task.open()
    t.equal((await task.completed()).result, task.pids()[1])
    const exited = once(child, 'exit')
    child.kill('SIGTERM')
    await exited
  })
})
