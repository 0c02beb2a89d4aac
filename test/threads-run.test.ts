import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { threadId } from 'node:worker_threads'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, listen, resultOf, settled } from './support/server'
import { moduleFile } from './support/threads'
import { until } from './support/until'

const WHERE = "import { threadId } from 'node:worker_threads'\nexport default async payload => ({ threadId, payload })\n"
const ORDER = "export default (n, ctx) => { ctx.log.info('ran %d', n) }"

test('a task that is defined by its file runs on another thread, and its result comes back', async t => {
  const file = moduleFile(t, WHERE)
  for (const location of [pathToFileURL(file), file, pathToFileURL(file).href]) {
    const task = defineTask<{ n: number }, { threadId: number }>('where', location)
    const { app } = await createApp(t, { tasks: [task] })
    let id = ''
    app.get('/', async request => {
      id = request.backgroundTasks.add(task, { n: 1 }).id
      return 'x'
    })
    const { url } = await listen(app)
    await fetch(url)
    await settled(app, { completed: 1 })
    const { result } = await app.backgroundTasks.find(id) as { result: { threadId: number } }
    t.match(result, { payload: { n: 1 } })
    t.not(result.threadId, threadId)
  }
})

test('a module in CommonJS runs, and one compiled by TypeScript', async t => {
  for (const text of ['module.exports = n => n * 2', 'exports.__esModule = true; exports.default = async n => n * 2']) {
    const task = defineTask<number, number>('double', moduleFile(t, text, 'cjs'))
    const { app } = await createApp(t, { tasks: [task] })
    const { id } = app.backgroundTasks.add(task, 21)
    await settled(app, { completed: 1 })
    t.match(await app.backgroundTasks.find(id), { result: 42 })
  }
})

test('a task without a payload gets undefined', async t => {
  const task = defineTask<undefined, boolean>('task', moduleFile(t, 'export default payload => payload === undefined'))
  const { app } = await createApp(t, { tasks: [task] })
  const { id } = app.backgroundTasks.add(task)
  await settled(app, { completed: 1 })
  t.match(await app.backgroundTasks.find(id), { result: true })
})

test('tasks of one request keep their order, whichever thread they run on', async t => {
  const threaded = defineTask<number>('threaded', moduleFile(t, ORDER))
  const { app, log } = await createApp(t, { tasks: [threaded], threads: { max: 2 } })
  app.get('/', async request => {
    request.backgroundTasks.add(threaded, 1)
    request.backgroundTasks.add(() => { request.log.info('ran 2') })
    request.backgroundTasks.add({ key: 'k' }, threaded, 0)
    request.backgroundTasks.add({ key: 'k' }, threaded, 3)
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 3, replaced: 1 })
  t.same(log.map(({ msg }) => msg).filter(msg => msg.startsWith('ran')), ['ran 1', 'ran 2', 'ran 3'])
})

test('no more threads run than `max`, and one that has been idle ends', async t => {
  const task = defineTask<undefined, number>('where', moduleFile(t, `
    import { threadId } from 'node:worker_threads'
    export default async () => threadId`))
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1, idleTimeout: 10 } })
  const handles = [1, 2, 3].map(() => app.backgroundTasks.add(task))
  const ids = handles.map(({ id }) => id)
  await settled(app, { completed: 3 })
  const results = await Promise.all(ids.map(async id => (await app.backgroundTasks.find(id))!.result))
  t.equal(new Set(results).size, 1, 'all ran on one thread')
  // How long the operating system takes to end a thread is not ours to know.
  const last = await until('a later one runs on a new thread', async () => {
    await sleep(20)
    const result = await resultOf(app, task)
    return result !== results[0] && result
  })
  t.type(last, 'number')
})

test('log lines are written in the async context of the add', async t => {
  const als = new AsyncLocalStorage<string>()
  const task = defineTask<number>('task', moduleFile(t, ORDER))
  const { app, log } = await createApp(t, { tasks: [task] }, {
    logger: { level: 'info', stream: { write: (line: string) => { lines.push(JSON.parse(line)) } }, mixin: () => ({ store: als.getStore() }) } as never
  })
  const lines: Array<{ msg: string, store?: string }> = []
  als.run('one', () => app.backgroundTasks.add(task, 1))
  als.run('two', () => app.backgroundTasks.add(task, 2))
  await settled(app, { completed: 2 })
  t.same(lines.filter(({ msg }) => msg.startsWith('ran')).map(({ msg, store }) => `${msg} ${store}`), ['ran 1 one', 'ran 2 two'])
  t.same(log, [])
})

test('of tasks on one thread, one after the other, each line is in the context of its own', async t => {
  const als = new AsyncLocalStorage<string>()
  const task = defineTask<string>('task', moduleFile(t, `
    import { once } from 'node:events'
    export default async (payload, { log, signal }) => {
      log.info('begun %s', payload)
      await once(signal, 'abort')
    }`))
  const lines: string[] = []
  const { app } = await createApp(t, { tasks: [task], threads: { max: 1 } }, {
    logger: {
      level: 'info',
      mixin: () => ({ store: als.getStore() }),
      stream: {
        write: (line: string) => {
          const { msg, store } = JSON.parse(line)
          if (!msg.startsWith('begun')) return
          lines.push(`${msg} in ${store}`)
          handles[lines.length - 1].cancel()
        }
      }
    } as never
  })
  const handles = ['one', 'two', 'three'].map(name => als.run(name, () => app.backgroundTasks.add(task, name)))
  await Promise.all(handles.map(handle => handle.settled()))
  t.same(lines, ['begun one in one', 'begun two in two', 'begun three in three'])
})

test('messages of a task after its end do not count as the next one\'s on its thread', async t => {
  const task = defineTask<string>('task', moduleFile(t, `
    import { setTimeout as sleep } from 'node:timers/promises'
    export default async (payload, { log, progress }) => {
      if (payload === 'leaves a timer') {
        sleep(5).then(() => { globalThis.late = true; log.info('late'); progress('late') })
      } else {
        while (!globalThis.late) await sleep(5)
        log.info('in time')
      }
    }`))
  const { app, log } = await createApp(t, { tasks: [task], threads: { max: 1 } })
  app.backgroundTasks.add(task, 'leaves a timer')
  const { id } = app.backgroundTasks.add(task, 'waits for it')
  await settled(app, { completed: 2 })
  t.same(log.filter(({ msg }) => /late|in time/.test(msg)).map(({ msg }) => msg), ['in time'])
  t.equal((await app.backgroundTasks.find(id))!.progress, undefined)
})

test('called as a function it runs in the thread of the caller, for unit tests', async t => {
  const task = defineTask<{ n: number }, { threadId: number }>('where', moduleFile(t, WHERE))
  t.match(await task({ n: 1 }), { threadId, payload: { n: 1 } })
  const logs = defineTask<number>('logs', moduleFile(t, ORDER))
  const lines: string[] = []
  await logs(5, { log: { info: (line: string, n: number) => { lines.push(`${line} ${n}`) } } as never })
  t.same(lines, ['ran %d 5'])
  await t.rejects(defineTask('none', moduleFile(t, 'export default 5'))(undefined), { code: 'FST_BGT_INVALID_MODULE' })
})

test('mode: capture starts no thread, and looks at no module', async t => {
  const json = defineTask<number>('json', '/does/not/exist.js')
  const clone = defineTask<Map<string, number>>('clone', '/does/not/exist.js', { local: true })
  const { app } = await createApp(t, { tasks: [json, clone], mode: 'capture' })
  await app.ready()
  app.backgroundTasks.add(json, 1)
  app.backgroundTasks.add(clone, new Map([['a', 1]]))
  await settled(app, { captured: 2 })
  t.same(app.backgroundTasks.captured.map(({ name, payload }) => [name, payload]), [['json', 1], ['clone', new Map([['a', 1]])]])
})

test('defineTask refuses a value that is no file', async t => {
  for (const file of ['./task.js', 'task.js', new URL('http://localhost/task.js'), []]) {
    t.throws(() => defineTask('task', file as never), { code: 'FST_BGT_INVALID_TASK' }, String(file))
  }
})
