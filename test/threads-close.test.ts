import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'tap'
import { defineTask } from '../index'
import { begun, createApp, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { compile, moduleFile, sources } from './support/threads'
import { ends, until } from './support/until'

test('close waits for tasks on threads, and for tasks that wait for a thread', async t => {
  const task = defineTask<number>('task', moduleFile(t, `
    import { setTimeout as sleep } from 'node:timers/promises'
    export default () => sleep(30)`))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  await app.ready()
  for (const n of [1, 2, 3]) app.backgroundTasks.add(task, n)
  await app.close()
  t.match(app.backgroundTasks.stats(), { completed: 3 })
})

test('close is bounded: an unfinished task is reported, and its thread terminated', async t => {
  const spin = defineTask('spin', moduleFile(t, "export default (payload, ctx) => { ctx.progress('begun'); for (;;); }"))
  const { app, log } = await createApp(t, { tasks: [spin], threads: { max: 1 }, closeTimeout: 100 })
  await app.ready()
  const handle = app.backgroundTasks.add(spin)
  const waiting = app.backgroundTasks.add(spin)
  await begun(app, handle.id)
  await ends('the close', app.close())
  t.equal(await handle.settled(), 'failed')
  t.equal(await waiting.settled(), 'failed')
  await turns()
  t.match(log.filter(({ msg }) => msg === 'background task did not end before the application closed'), [{ task: { name: 'spin' } }])
  t.equal(app.backgroundTasks.stats().abandoned, 0, 'no thread is left')
})

test('a handler that listens to the close can end in time', async t => {
  const task = defineTask('task', moduleFile(t, `
    import { once } from 'node:events'
    export default async (payload, { signal, progress }) => {
      progress('begun')
      await once(signal, 'abort')
      return signal.reason.code
    }`))
  const { app } = await createApp(t, { tasks: [task], closeTimeout: 1_000 })
  const handle = app.backgroundTasks.add(task)
  const { id } = handle
  await begun(app, id)
  await app.close()
  t.equal(await handle.settled(), 'completed')
  t.match(await app.backgroundTasks.find(id), { result: 'FST_BGT_CLOSE_TIMEOUT' })
})

test('an attempt that would begin when the time is over does not', async t => {
  const first = defineTask('first', moduleFile(t, `
    import { once } from 'node:events'
    export default async (payload, { signal, progress }) => {
      progress('begun')
      await once(signal, 'abort')
    }`))
  const second = defineTask('second', moduleFile(t, 'export default () => {}'))
  const errors: unknown[] = []
  const { app } = await createApp(t, {
    tasks: [first, second], concurrency: 1, closeTimeout: 1_000, onError: (error, { name }) => { errors.push([name, error]) }
  })
  const { id } = app.backgroundTasks.add(first)
  app.backgroundTasks.add(second)
  await begun(app, id)
  await app.close()
  t.match(app.backgroundTasks.stats(), { completed: 1, failed: 1 })
  t.match(errors, [['second', { code: 'FST_BGT_CLOSE_TIMEOUT' }]])
})

test('a task of a backend that the close cuts off is given back, whether it throws the reason, wraps it, or takes no notice', async t => {
  const throws = defineTask('throws', moduleFile(t, `
    import { once } from 'node:events'
    export default async (how, { signal, progress }) => {
      progress('begun')
      await once(signal, 'abort')
      throw how === 'wrap' ? new Error('aborted', { cause: signal.reason }) : signal.reason
    }`))
  const spin = defineTask('spin', moduleFile(t, "export default (payload, ctx) => { ctx.progress('begun'); for (;;); }"))
  const backend = new StubBackend()
  const { app } = await createApp(t, { tasks: [throws, spin], backend, threads: { max: 3 }, closeTimeout: 3_000 })
  await app.ready()
  let running = 0
  const progress = () => { running++ }
  const ends = [
    backend.deliver({ name: 'throws', payload: '"throw"' }, { progress }),
    backend.deliver({ name: 'throws', payload: '"wrap"' }, { progress }),
    backend.deliver({ name: 'spin' }, { progress }),
    backend.deliver({ name: 'spin' }, { progress })
  ]
  await until('three run', () => running === 3)
  await app.close()
  for (const end of ends) t.match(await end, { state: 'not attempted', reason: { code: 'FST_BGT_CLOSE_TIMEOUT' } })
})

test('an application that was never used closes', async t => {
  const { app } = await createApp(t, { tasks: [defineTask('task', moduleFile(t, 'export default () => {}'))] })
  app.backgroundTasks.add(() => {})
  await t.resolves(app.close())
})

test('idle threads do not keep a process that is never closed', async t => {
  const folder = t.testdir({
    'task.js': 'module.exports = async n => n * 2',
    'main.js': `
      const Fastify = require('fastify')
      const { default: backgroundTasks, defineTask } = require('./index')
      const double = defineTask('double', __dirname + '/task.js')
      async function main () {
        const app = Fastify()
        await app.register(backgroundTasks, { tasks: [double], threads: { idleTimeout: 2_147_483_647 } })
        await app.ready()
        const handle = app.backgroundTasks.add(double, 21)
        const { id } = handle
        await handle.settled()
        console.log((await app.backgroundTasks.find(id)).result)
      }
      main()`
  })
  compile(folder, sources)
  const child = spawn(process.execPath, [join(folder, 'main.js')], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.on('data', text => { output += text })
  t.same(await once(child, 'close'), [0, null])
  t.equal(output, '42\n')
})
