import { AsyncLocalStorage } from 'node:async_hooks'
import { writeFileSync } from 'node:fs'
import { MessagePort } from 'node:worker_threads'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { gc } from './support/garbage'
import { block, createApp, settled, signal, turns } from './support/server'
import { moduleFile } from './support/threads'
import { until } from './support/until'

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
  const handles = [0, 50, 0, 0].map(n => app.backgroundTasks.add(task, n))
  const ids = [handles[1].id]
  const add = (n: number) => { ids.push(app.backgroundTasks.add(task, n).id) }
  handles[1].settled().then(() => [1, 0].map(add))
  await handles[0].settled()
  t.same(await Promise.all([handles[2].cancel(), handles[3].cancel()]), [true, true])
  await settled(app, { completed: 4, cancelled: 2 })
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

test('also one that comes to a thread which others have used, and that what they left behind ends', async t => {
  const { file, open } = exits(t)
  const task = defineTask<{ n: number }, { n: number }>('task', file)
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  t.equal(await app.backgroundTasks.add(task, { n: 2 }).settled(), 'completed')
  const handle = app.backgroundTasks.add(task, { n: 3 })
  await open()
  t.equal(await handle.settled(), 'completed')
})

/** Tasks, the second of which leaves an endless loop behind. Cancels the one that waits for its thread, if it is to go back. */
async function leaveLoop (t: Test, goesBack: boolean) {
  const task = defineTask<boolean>('task', moduleFile(t, `${imports}
    const loop = () => { for (;;); }
    export default async loops => {
      // Until the one that waits has been cancelled.
      if (loops) await sleep(50)
      return { get n () { if (loops) queueMicrotask(loop); return 1 } }
    }`))
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const handles = [false, true, false].map(loops => app.backgroundTasks.add(task, loops))
  await handles[0].settled()
  if (goesBack) {
    await turns()
    t.equal(await handles[2].cancel(), true)
    await handles[1].settled()
    handles[2] = app.backgroundTasks.add(task, false)
  }
  t.same(await Promise.all(handles.map(handle => handle.settled())), ['completed', 'completed', 'completed'])
  t.match(log.filter(({ msg }) => msg === 'a thread of background tasks ended while no task ran on it'), [
    { level: 50, err: { message: /what a task has left behind has held it/ } }
  ])
}

test('a thread that is held by what a task has left behind is ended, and the next task runs on another one', t => leaveLoop(t, false))
test('also where the thread is to go back to the pool', t => leaveLoop(t, true))

test('a thread whose task ends while the main thread is busy is not taken for held', async t => {
  const task = defineTask<number>('task', moduleFile(t, `${imports}
    export default n => sleep(n)`))
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const handles = [1, 10, 2_050, 10].map(n => app.backgroundTasks.add(task, n))
  await handles[1].settled()
  await turns()
  t.equal(await handles[3].cancel(), true)
  // It looks at the thread within this time, and finds what that said only afterwards.
  setTimeout(() => setImmediate(() => { block(450) }), 1_950)
  await handles[2].settled()
  t.equal(await app.backgroundTasks.add(task, 0).settled(), 'completed')
  t.notOk(log.some(({ level }) => level >= 50))
})

test('a result that cannot be read on the main thread, whose stack is smaller, fails its task', async t => {
  const task = defineTask<boolean>('task', moduleFile(t, `
    export default deep => {
      let result = {}
      if (deep) for (let n = 0; n < 12_000; n++) result = { result }
      return result
    }`))
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  for (const before of [[], [false]]) {
    const handles = [...before, true, false].map(deep => app.backgroundTasks.add(task, deep))
    t.same(await Promise.all(handles.map(handle => handle.settled())), [...before.map(() => 'completed'), 'failed', 'completed'])
    t.match(log.findLast(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_UNCLONABLE' } })
  }
})

test('a getter of a result that throws, and not even an error', async t => {
  const task = defineTask('task', moduleFile(t, 'export default () => ({ get result () { throw null } })'))
  const { app, log } = await createApp(t, { tasks: [task] })
  t.equal(await app.backgroundTasks.add(task).settled(), 'failed')
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_UNCLONABLE', message: /null/ } })
})

test('what cannot be read on the main thread is passed over when the thread ends', async t => {
  const task = defineTask('task', moduleFile(t, `
    let deep = {}
    for (let n = 0; n < 12_000; n++) deep = { deep }
    export default (payload, { log, progress }) => {
      log.info('begun')
      progress(deep)
      progress(deep)
      process.exit(5)
    }`))
  const { app, log } = await createApp(t, { tasks: [task] })
  const handle = app.backgroundTasks.add(task)
  await until('the task logs', () => log.some(({ msg }) => msg === 'begun'), () => turns(1))
  // The event of the exit comes before those of the messages.
  block(100)
  t.equal(await handle.settled(), 'failed')
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_THREAD_DIED' } })
})

test('a lease holds nothing of its first task, however long it lasts', async t => {
  const task = defineTask<number>('task', moduleFile(t, `${imports}
    export default n => sleep(n)`))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  const als = new AsyncLocalStorage<object>()
  const stores: WeakRef<object>[] = []
  const gate = signal()
  let added = 0
  const add = () => {
    const store = {}
    if (added++ < 4) stores.push(new WeakRef(store))
    const handle = als.run(store, () => app.backgroundTasks.add(task, 1))
    als.exit(() => handle.settled().then(() => stores.every(ref => ref.deref() === undefined) || added > 2_000 ? gate.resolve() : add()))
  }
  for (let n = 0; n < 4; n++) add()
  const timer = setInterval(gc, 20)
  t.teardown(() => clearInterval(timer))
  await gate.promise
  t.same(stores.map(ref => ref.deref()), [undefined, undefined, undefined, undefined])
})
