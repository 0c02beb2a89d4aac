import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { defineTask, type DefinitionOptions, type ThreadOptions } from '../index'
import { block, createApp, settled, turns, type LogLine } from './support/server'
import { moduleFile } from './support/threads'

/** Lets tasks wait behind one that takes its thread down with it. */
async function check (t: Test, text: string, expected: object, threads: ThreadOptions = { max: 1 }, options: DefinitionOptions = {}) {
  const dies = defineTask('dies', moduleFile(t, text), options)
  const quick = defineTask<number>('quick', moduleFile(t, 'export default n => n'))
  const errors: unknown[] = []
  const { app, log } = await createApp(t, { tasks: [dies, quick], threads, onError: error => { errors.push(error) } })
  app.backgroundTasks.add(quick, 0)
  app.backgroundTasks.add(dies)
  for (const n of [1, 2, 3]) app.backgroundTasks.add(quick, n)
  await settled(app, { completed: 4, failed: 1 })
  t.match(errors, [{ code: 'FST_BGT_THREAD_DIED', message: /^The thread of the background task 'dies' ended before the task: received/, ...expected }])
  return log
}

/** The line that tells of the end of a thread with no task on it. */
async function endOfThread (log: LogLine[]): Promise<LogLine> {
  for (;;) {
    const line = log.find(({ msg }) => msg === 'a thread of background tasks ended while no task ran on it')
    if (line !== undefined) return line
    await sleep(5)
  }
}

test('process.exit', t => check(t, 'export default () => process.exit(3)', { cause: { message: 'worker exited with code: 3' } }))

test('an uncaught exception', t => check(t, `
  export default () => new Promise(() => { setImmediate(() => { throw new RangeError('from a callback') }) })`,
{ cause: { name: 'RangeError', message: 'from a callback' } }))

test('an unhandled rejection', t => check(t, `
  export default () => new Promise(() => { Promise.reject(new Error('not awaited')) })`, { cause: { message: 'not awaited' } }))

test('a thread that throws a value that is no error', t => check(t, `
  export default () => new Promise(() => { setImmediate(() => { throw 'text' }) })`, { message: /received 'text'/ }))

test('out of memory', t => check(t, `
  export default () => {
    const all = []
    for (;;) all.push({ text: 'x' + all.length })
  }`, { cause: { code: 'ERR_WORKER_OUT_OF_MEMORY' } }, { max: 1, resourceLimits: { maxOldGenerationSizeMb: 16 } }))

test('a thread that is too small to start', async t => {
  const task = defineTask('task', moduleFile(t, 'export default () => {}'))
  const errors: unknown[] = []
  const { app } = await createApp(t, {
    tasks: [task], threads: { max: 1, resourceLimits: { maxOldGenerationSizeMb: 4, maxYoungGenerationSizeMb: 1 } }, onError: error => { errors.push(error) }
  })
  // Before the application is ready, and so before it has been tried.
  app.backgroundTasks.add(task)
  app.backgroundTasks.add(task)
  await settled(app, { failed: 2 })
  const expected = { code: 'FST_BGT_THREAD_DIED', cause: { code: 'ERR_WORKER_OUT_OF_MEMORY' } }
  t.match(errors, [expected, expected])
})

test('the next attempt gets a new thread', async t => {
  const task = defineTask('task', moduleFile(t, 'export default (payload, { attempt }) => { if (attempt === 1) process.exit(1) }'), { attempts: 2 })
  const { app } = await createApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await settled(app, { completed: 1, retried: 1 })
})

test('a task that has ended is not failed by the end of its thread, which is logged', async t => {
  const leaves = defineTask('leaves', moduleFile(t, `
    export default () => { setTimeout(() => { throw new Error('left behind') }, 20) }`))
  const { app, log } = await createApp(t, { tasks: [leaves], threads: { max: 2 } })
  app.backgroundTasks.add(leaves)
  await settled(app, { completed: 1 })
  t.match(await endOfThread(log), { level: 50, err: { message: 'left behind' } })
  app.backgroundTasks.add(leaves)
  await settled(app, { completed: 2 })
})

test('nor by an end between its result and the next task', async t => {
  const exits = defineTask<undefined, { n: number }>('exits', moduleFile(t, `
    export default () => ({ get n () { queueMicrotask(() => process.exit(5)); return 1 } })`))
  const { app, log } = await createApp(t, { tasks: [exits] })
  const { id } = app.backgroundTasks.add(exits)
  await settled(app, { completed: 1 })
  t.match(await app.backgroundTasks.find(id), { result: { n: 1 } })
  t.match(await endOfThread(log), { level: 50, err: { message: 'worker exited with code: 5' } })
})

test('nor by an end that a busy main thread handles together with the result', async t => {
  const file = moduleFile(t, '', 'txt')
  const leaves = defineTask<undefined, number>('leaves', moduleFile(t, `
    import { writeFileSync } from 'node:fs'
    export default () => {
      setTimeout(() => { writeFileSync(${JSON.stringify(`${file}.left`)}, ''); throw new Error('left behind') }, 1)
      return 7
    }`), { attempts: 2 })
  const { app, log } = await createApp(t, { tasks: [leaves] })
  await app.ready()
  const handle = app.backgroundTasks.add(leaves)
  const { id } = handle
  await turns(1)
  for (let n = 0; n < 2_000 && !existsSync(`${file}.left`); n++) block(5)
  block(100)
  t.equal(await handle.settled(), 'completed')
  t.match(await app.backgroundTasks.find(id), { result: 7, attempts: 1 })
  t.match(await endOfThread(log), { err: { message: 'left behind' } })
})

test('tasks that come to an idle thread while it ends run on another one', async t => {
  // The module is loaded by then: a thread that ends while it loads one has begun the task.
  const task = defineTask<boolean>('task', moduleFile(t, 'export default leaves => { if (leaves) setTimeout(() => process.exit(0), 5) }'))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  await app.ready()
  const states = new Set()
  for (let round = 0; round < 30; round++) {
    await app.backgroundTasks.add(task, true).settled()
    // Between the end of a thread's channel and that of the thread itself is a moment.
    for (const end = performance.now() + 30; performance.now() < end;) {
      states.add(await app.backgroundTasks.add(task, false).settled())
      await turns(1)
    }
  }
  t.same([...states], ['completed'])
})

test('a task whose module loads on one thread is not failed by the end of another thread', async t => {
  const file = moduleFile(t, '', 'txt')
  const loading = JSON.stringify(`${file}.loading`)
  const ended = `${file}.ended`
  const imports = `
    import { existsSync, writeFileSync } from 'node:fs'
    import { setTimeout as sleep } from 'node:timers/promises'`
  const leaves = defineTask('leaves', moduleFile(t, `${imports}
    export default async () => {
      while (!existsSync(${loading})) await sleep(5)
      setTimeout(() => { throw new Error('left behind') }, 20)
    }`))
  const loads = defineTask('loads', moduleFile(t, `${imports}
    writeFileSync(${loading}, '')
    while (!existsSync(${JSON.stringify(ended)})) await sleep(5)
    export default () => {}`))
  const { app, log } = await createApp(t, { tasks: [leaves, loads], threads: { max: 2 } })
  // Before the application is ready: it would load the modules itself.
  app.backgroundTasks.add(leaves)
  const handle = app.backgroundTasks.add(loads)
  await endOfThread(log)
  writeFileSync(ended, '')
  t.equal(await handle.settled(), 'completed')
  await settled(app, { completed: 2 })
})

test('without a logger, the end of a thread with no task on it is a process warning', async t => {
  const leaves = defineTask('leaves', moduleFile(t, `
    export default () => { setTimeout(() => { throw new Error('left behind') }, 20) }`))
  const { app } = await createApp(t, { tasks: [leaves] }, { logger: false })
  const warned = once(process, 'warning')
  // An idle thread keeps no process.
  const timer = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(timer))
  app.backgroundTasks.add(leaves)
  t.match(await warned, [{
    code: 'FST_BGT_THREAD_ENDED', message: 'a thread of background tasks ended while no task ran on it', detail: /left behind/
  }])
})
