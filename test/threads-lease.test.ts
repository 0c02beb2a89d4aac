import { writeFileSync } from 'node:fs'
import { MessagePort } from 'node:worker_threads'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled, turns } from './support/server'
import { moduleFile } from './support/threads'

// While tasks wait for a thread, it gets one after the other without going back to the pool: each is on its own all the same.

const imports = `
  import { AsyncLocalStorage } from 'node:async_hooks'
  import { setTimeout as sleep } from 'node:timers/promises'
  import { threadId } from 'node:worker_threads'
  `

test('each task has its own result, error and log lines, all on one thread', async t => {
  const task = defineTask<number, unknown>('task', moduleFile(t, `${imports}
    export default async (n, { id, log, progress }) => {
      log.info('task %d', n)
      progress(n)
      if (n % 3 === 1) throw new RangeError(String(n))
      return n % 3 === 0 ? threadId : { n, id, threadId }
    }`), { attempts: 2 })
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  await app.ready()
  const ids = Array.from({ length: 12 }, (_, n) => app.backgroundTasks.add(task, n).id)
  await settled(app, { completed: 8, failed: 4, retried: 4 })
  const all = await Promise.all(ids.map(id => app.backgroundTasks.find(id)))
  const threadId = all[0]!.result
  t.match(threadId, Number)
  t.match(all, ids.map((id, n) => ({
    progress: n,
    ...n % 3 === 0 ? { result: threadId } : n % 3 === 1 ? { attempts: 2, error: { name: 'RangeError', message: String(n) } } : { result: { n, id, threadId } }
  })))
  for (const [n, id] of ids.entries()) t.equal(log.filter(({ msg, task }) => msg === `task ${n}` && task!.id === id).length, n % 3 === 1 ? 2 : 1)
})

test('a task does not find the async context of the one before', async t => {
  const task = defineTask<number, unknown>('task', moduleFile(t, `${imports}
    const als = new AsyncLocalStorage()
    export default async n => {
      const found = als.getStore()
      als.enterWith(n)
      await sleep(1)
      return { found }
    }`))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const ids = [1, 2, 3, 4].map(n => app.backgroundTasks.add(task, n).id)
  await settled(app, { completed: 4 })
  for (const id of ids) t.same((await app.backgroundTasks.find(id))!.result, { found: undefined })
})

test('a result that cannot leave the thread fails its task only', async t => {
  const task = defineTask<number, unknown>('task', moduleFile(t, 'export default n => n === 1 ? () => {} : n'))
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  for (const n of [0, 1, 2, 3]) app.backgroundTasks.add(task, n)
  await settled(app, { completed: 3, failed: 1 })
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_UNCLONABLE' } })
})

test('a thread goes back to the pool when those that waited are cancelled', async t => {
  const task = defineTask<number, number>('task', moduleFile(t, `${imports}
    export default async n => {
      await sleep(n)
      return threadId
    }`))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const handles = [50, 0, 0].map(n => app.backgroundTasks.add(task, n))
  const ids = [handles[0].id]
  const add = (n: number) => { ids.push(app.backgroundTasks.add(task, n).id) }
  handles[0].settled().then(() => [1, 0].map(add))
  t.same(await Promise.all([handles[1].cancel(), handles[2].cancel()]), [true, true])
  await settled(app, { completed: 3, cancelled: 2 })
  const results = await Promise.all(ids.map(async id => (await app.backgroundTasks.find(id))!.result))
  t.equal(results.length, 3)
  t.equal(new Set(results).size, 1, 'all on one thread')
})

/**
 * A module whose second task ends its thread when it has told its result, and the third one has been sent there: its getter is
 * called when the result is cloned. `open` lets it do so.
 */
function exits (t: Test) {
  const gate = `${moduleFile(t, '')}.open`
  const file = moduleFile(t, `
    import { existsSync } from 'node:fs'
    const exit = () => {
      while (!existsSync(${JSON.stringify(gate)}));
      process.exit(5)
    }
    export default ({ n }) => n === 2 ? { get n () { queueMicrotask(exit); return n } } : { n }`)
  return { file, open: () => turns().then(() => writeFileSync(gate, '')) }
}

test('a thread that ends before it has begun the next task: that one runs on another thread', async t => {
  const { file, open } = exits(t)
  const task = defineTask<{ n: number }, { n: number }>('task', file)
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const handles = [1, 2, 3, 4].map(n => app.backgroundTasks.add(task, { n }))
  const ids = handles.map(({ id }) => id)
  handles[1].settled().then(open)
  await settled(app, { completed: 4 })
  for (const [index, id] of ids.entries()) t.match(await app.backgroundTasks.find(id), { attempts: 1, result: { n: index + 1 } })
  t.match(log.filter(({ msg }) => msg === 'a thread of background tasks ended while no task ran on it'), [{ level: 50, err: { message: 'worker exited with code: 5' } }])
})

test('unless its payload has moved to the thread that ended', async t => {
  const { file, open } = exits(t)
  const task = defineTask<{ n: number, bytes: Uint8Array<ArrayBuffer> }, unknown>('task', file, { local: true, transfer: ({ bytes }) => [bytes] })
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const handles = [1, 2, 3, 4].map(n => app.backgroundTasks.add(task, { n, bytes: new Uint8Array(n) }))
  handles[1].settled().then(open)
  t.same(await Promise.all(handles.map(handle => handle.settled())), ['completed', 'completed', 'failed', 'completed'])
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_THREAD_DIED', message: /worker exited with code: 5/ } })
})

test('one that cannot be sent fails, and the next one gets the thread', async t => {
  const task = defineTask<number, number>('task', moduleFile(t, 'export default n => n'))
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const { postMessage } = MessagePort.prototype
  t.teardown(() => { MessagePort.prototype.postMessage = postMessage })
  MessagePort.prototype.postMessage = function (this: MessagePort, message: any, list: any) {
    if (message?.type === 'run' && message.request.payload.json === '3') throw new Error('out of memory')
    return postMessage.call(this, message, list)
  }
  const handles = [1, 2, 3, 4].map(n => app.backgroundTasks.add(task, n))
  t.same(await Promise.all(handles.map(handle => handle.settled())), ['completed', 'completed', 'failed', 'completed'])
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_THREAD_DIED', message: /out of memory/ } })
})
