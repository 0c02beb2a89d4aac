import { AsyncLocalStorage } from 'node:async_hooks'
import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import workerThreads, { MessagePort } from 'node:worker_threads'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import Fastify from 'fastify'
import backgroundTasks, { defineTask, type TaskHandle } from '../index'
import { createApp } from './support/server'
import { folder, moduleFile } from './support/threads'

// What happens while a thread starts, or instead of that, beside another one that has a task: neither gets what is the other's.

let starting: (file: string | URL) => string | URL = file => file
const { Worker } = workerThreads
workerThreads.Worker = class extends Worker {
  constructor (file: string | URL, options: workerThreads.WorkerOptions) {
    super(starting(file), options)
  }
}

interface Payload { n: number, ms: number }

/** Adds a task that takes its time, and one that needs another thread; what became of each, and what they have logged. */
async function runTwo (t: Test) {
  const task = defineTask<Payload, number>('task', moduleFile(t, `
    import { setTimeout as sleep } from 'node:timers/promises'
    export default async ({ n, ms }, { log, progress }) => {
      log.info('begun %d', n)
      await sleep(ms)
      log.info('end %d', n)
      progress(n)
      return n
    }`), { timeout: 10_000 })
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 2 } })
  await app.ready()
  return async (prepare: (handles: TaskHandle[]) => void) => {
    const handles: TaskHandle[] = []
    prepare(handles)
    handles.push(...[{ n: 1, ms: 150 }, { n: 2, ms: 20 }].map(payload => app.backgroundTasks.add(task, payload)))
    const ids = handles.map(({ id }) => id)
    await Promise.all(handles.map(handle => handle.settled()))
    const all = await Promise.all(ids.map(id => app.backgroundTasks.find(id)))
    // Time for what should not run.
    await sleep(100)
    return { all, lines: log.filter(({ msg }) => /^(begun|end)/.test(msg)).map(({ msg, task }) => `${msg}, of ${ids.indexOf(task!.id) + 1}`).sort() }
  }
}

test('a thread that exits while it starts: its task runs on the next that is free', async t => {
  const run = await runTwo(t)
  const exits = join(folder, 'exits.js')
  writeFileSync(exits, 'process.exit(0)')
  const { all, lines } = await run(() => {
    starting = () => {
      starting = file => file
      return exits
    }
  })
  t.match(all, [{ state: 'completed', result: 1, progress: 1 }, { state: 'completed', result: 2, progress: 2 }])
  t.same(lines, ['begun 1, of 1', 'begun 2, of 2', 'end 1, of 1', 'end 2, of 2'])
})

test('a thread that cannot be made fails its task, which does not run later, and harms no other', async t => {
  const run = await runTwo(t)
  const { all, lines } = await run(() => {
    starting = file => {
      starting = file => file
      throw new Error(`no thread for ${file}`)
    }
  })
  t.match(all, [{ state: 'completed', result: 1 }, { state: 'failed', error: { code: 'FST_BGT_THREAD_DIED' } }])
  t.same(lines, ['begun 1, of 1', 'end 1, of 1'])
})

test('a request that cannot be sent to its thread fails its task, and not the one that gets the thread then', async t => {
  const run = await runTwo(t)
  const { postMessage } = MessagePort.prototype
  t.teardown(() => { MessagePort.prototype.postMessage = postMessage })
  const { all, lines } = await run(() => {
    MessagePort.prototype.postMessage = function (this: MessagePort, message: any, list: any) {
      if (message?.task?.payload?.json?.startsWith('{"n":1')) throw new Error('out of memory')
      return postMessage.call(this, message, list)
    }
  })
  t.match(all, [{ state: 'failed', error: { message: /out of memory/ } }, { state: 'completed', result: 2 }])
  t.same(lines, ['begun 2, of 2', 'end 2, of 2'])
})

test('a task that is cancelled while its thread starts does not run', async t => {
  const run = await runTwo(t)
  const { all, lines } = await run(handles => {
    starting = file => {
      starting = file => file
      setImmediate(() => handles[1].cancel())
      return file
    }
  })
  t.match(all, [{ state: 'completed', result: 1 }, { state: 'cancelled' }])
  t.same(lines, ['begun 1, of 1', 'end 1, of 1'])
})

test('a thread does not keep what the async context of its first task holds', async t => {
  const task = defineTask<number, number>('task', moduleFile(t, 'export default n => n'))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  await app.ready()
  const als = new AsyncLocalStorage<object>()
  const stores: WeakRef<object>[] = []
  for (let n = 0; n < 3; n++) {
    const store = {}
    stores.push(new WeakRef(store))
    await als.run(store, () => app.backgroundTasks.add(task, n)).settled()
  }
  setFlagsFromString('--expose_gc')
  const gc = runInNewContext('gc') as () => void
  for (let i = 0; i < 100 && stores[0].deref() !== undefined; i++) {
    await sleep(10)
    gc()
  }
  t.equal(stores[0].deref(), undefined)
})

test('a logger whose level is a method', async t => {
  const task = defineTask<number>('task', moduleFile(t, 'export default (n, { log }) => { log.info(log.level) }'))
  const lines: string[] = []
  const logger: Record<string, unknown> = { level: () => 30, child: () => logger }
  for (const name of ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']) logger[name] = (...args: string[]) => { lines.push(args[1] as string) }
  const app = Fastify({ loggerInstance: logger as never })
  t.teardown(() => app.close())
  await app.register(backgroundTasks, { tasks: [task] })
  await app.ready()
  t.equal(await app.backgroundTasks.add(task, 1).settled(), 'completed')
  t.same(lines.filter(line => line === 'info'), ['info'])
})
