import { AsyncLocalStorage } from 'node:async_hooks'
import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import workerThreads, { MessagePort } from 'node:worker_threads'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import Fastify from 'fastify'
import backgroundTasks, { defineTask, type TaskHandle } from '../index'
import { gc } from './support/garbage'
import { begun, createApp } from './support/server'
import { folder, moduleFile } from './support/threads'

// A thread that starts, or fails to, beside another one that has a task: neither gets the other's messages.

let starting: (file: string | URL) => string | URL = file => file
let onExit = (): void => {}
const { Worker } = workerThreads
workerThreads.Worker = class extends Worker {
  constructor (file: string | URL, options: workerThreads.WorkerOptions) {
    super(starting(file), options)
    this.once('exit', () => onExit())
  }
}

interface Payload { n: number, gate: string | null }

/**
 * Adds a task that waits at a gate, and one that needs another thread; what became of each, and what they have logged. The
 * gate is opened when the second one has ended, unless `prepare`, which is called before, has it opened earlier.
 */
async function runTwo (t: Test) {
  const task = defineTask<Payload, number>('task', moduleFile(t, `
    import { existsSync } from 'node:fs'
    import { setTimeout as sleep } from 'node:timers/promises'
    export default async ({ n, gate }, { log, progress }) => {
      log.info('begun %d', n)
      while (gate !== null && !existsSync(gate)) await sleep(5)
      log.info('end %d', n)
      progress(n)
      return n
    }`))
  const gate = `${moduleFile(t, '')}.open`
  const open = () => writeFileSync(gate, '')
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 2 } })
  await app.ready()
  return async (prepare: (handles: TaskHandle[], open: () => void) => void) => {
    const handles: TaskHandle[] = []
    prepare(handles, open)
    handles.push(...[{ n: 1, gate }, { n: 2, gate: null }].map(payload => app.backgroundTasks.add(task, payload)))
    const ids = handles.map(({ id }) => id)
    await handles[1].settled()
    open()
    await handles[0].settled()
    const all = await Promise.all(ids.map(id => app.backgroundTasks.find(id)))
    // One thread has ended both, or is free for what should not run.
    await app.backgroundTasks.add(task, { n: 3, gate: null }).settled()
    return { all, lines: log.filter(({ msg }) => /^(begun|end) [12]/.test(msg)).map(({ msg, task }) => `${msg}, of ${ids.indexOf(task!.id) + 1}`).sort() }
  }
}

test('a thread that exits while it starts: its task runs on the next that is free', async t => {
  const run = await runTwo(t)
  const exits = join(folder, 'exits.js')
  writeFileSync(exits, 'process.exit(0)')
  const { all, lines } = await run((_, open) => {
    starting = () => {
      starting = file => file
      onExit = () => {
        onExit = () => {}
        // The pool hears of it after this.
        setImmediate(open)
      }
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

test('nor does closing the application just after that leave a rejection behind', async t => {
  const waits = defineTask('waits', moduleFile(t, 'export default (payload, { progress }) => new Promise(() => { progress(true) })'))
  const { app } = await createApp(t, { tasks: [waits], threads: { max: 2 } })
  await app.ready()
  const first = app.backgroundTasks.add(waits)
  await begun(app, first.id)
  starting = file => {
    starting = file => file
    throw new Error(`no thread for ${file}`)
  }
  t.equal(await app.backgroundTasks.add(waits).settled(), 'failed')
  // No thread is free by then.
  t.equal(await first.cancel(), true)
  await app.close()
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
