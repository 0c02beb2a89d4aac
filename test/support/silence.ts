import type { Test } from 'tap'
import { defineTask } from '../../index'
import type { TaskBackend } from '../../types/backend'
import type { Proxy } from './proxy'
import { createApp } from './server'
import { ends, until } from './until'

/* A network that forgets connections: they stay open, and nothing comes through them any more. */

const task = defineTask('task', async () => {})

async function serve (t: Test, backend: TaskBackend) {
  const { app, log } = await createApp(t, { tasks: [task], backend, worker: false, storeTimeout: 3_000 })
  app.get('/', async request => request.backgroundTasks.add(task).id)
  await app.ready()
  /** The status of a request that has a task stored: no client is kept waiting. */
  const status = async () => (await ends('an answer', app.inject('/'))).statusCode
  return { log, status }
}

/** The connections that a backend has fall silent; it can make new ones. */
export async function openConnections (t: Test, proxy: Proxy, backend: TaskBackend): Promise<void> {
  const { log, status } = await serve(t, backend)
  t.equal(await status(), 200)
  proxy.silence()
  t.equal(await status(), 503)
  await until('it is stored again', async () => await status() === 200)
  await until('it is logged', () => log.some(({ msg, level }) => level === 40 && msg.endsWith('is in trouble')))
}

/** New connections say nothing either, for a while. */
export async function newConnections (t: Test, proxy: Proxy, backend: TaskBackend): Promise<void> {
  const { status } = await serve(t, backend)
  proxy.swallowsNew = true
  proxy.silence()
  for (let n = 0; n < 3; n++) t.equal(await status(), 503)
  await until('it has tried anew', () => proxy.accepted > 1)
  proxy.swallowsNew = false
  await until('it is stored again', async () => await status() === 200)
}
