import { test } from 'tap'
import { defineTask, type TaskContext } from '../index'
import { createApp, listen, settled, signal } from './support/server'

interface Order { id: number, items: string[] }

test('a defined task gets its payload and a context', async t => {
  const seen: Array<{ order: Order, ctx: Record<string, unknown> }> = []
  const sendReceipt = defineTask('send-receipt', async (order: Order, ctx: TaskContext) => {
    const { id, name, attempt, requestId, diScope, signal, progress } = ctx
    progress(50)
    seen.push({ order, ctx: { id, name, attempt, requestId, diScope, aborted: signal.aborted } })
    ctx.log.info('sending')
  })
  const { app, log } = await createApp(t, { tasks: [sendReceipt] })
  let id = ''
  app.get('/', async request => {
    id = request.backgroundTasks.add(sendReceipt, { id: 1, items: ['a'] }).id
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(seen, [{
    order: { id: 1, items: ['a'] },
    ctx: { id, name: 'send-receipt', attempt: 1, requestId: 'req-1', diScope: undefined, aborted: false }
  }])
  t.match(log.find(line => line.msg === 'sending'), { reqId: 'req-1', task: { id, name: 'send-receipt', attempt: 1 } })
  t.match(await app.backgroundTasks.find(id), { state: 'completed', progress: 50 })
})

test('the application adds it too; its context then knows no request', async t => {
  let requestId: string | null = 'unset'
  const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => {
    requestId = ctx.requestId
    ctx.log.info('from the application')
  })
  const { app, log } = await createApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await settled(app, { completed: 1 })
  t.equal(requestId, null)
  t.match(log.find(line => line.msg === 'from the application'), { task: { name: 'task' } })
})

test('the payload is a snapshot, and a new copy on every attempt', async t => {
  const seen: Order[] = []
  const task = defineTask('task', async (order: Order) => {
    seen.push(structuredClone(order))
    order.items.push('changed by the task')
    throw new Error('boom')
  }, { attempts: 2 })
  const { app } = await createApp(t, { tasks: [task] })
  const order: Order = { id: 1, items: ['a'] }
  const handle = app.backgroundTasks.add(task, order)
  order.items.push('changed by the caller')
  t.equal(await handle.settled(), 'failed')
  t.same(seen, [{ id: 1, items: ['a'] }, { id: 1, items: ['a'] }])
})

test('options: those of the definition, and those of the add before them', async t => {
  const attempts: string[] = []
  const task = defineTask('task', (_payload: undefined, ctx: TaskContext) => {
    attempts.push(`${ctx.name} ${ctx.attempt}`)
    throw new Error('boom')
  }, { attempts: 2, timeout: 60_000 })
  const { app } = await createApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await settled(app, { failed: 1, retried: 1 })
  app.backgroundTasks.add({ name: 'renamed', attempts: 1 }, task)
  await settled(app, { failed: 2, retried: 1 })
  t.same(attempts, ['task 1', 'task 2', 'renamed 1'])
})

test('the signal of the context aborts at the timeout, and can be read afterwards', async t => {
  const [begun, go, read] = [signal(), signal(), signal<boolean>()]
  const task = defineTask('task', async (_payload: undefined, ctx: TaskContext) => {
    begun.resolve()
    await go.promise
    read.resolve(ctx.signal.aborted)
  }, { timeout: 5 })
  const { app } = await createApp(t, { tasks: [task] })
  const handle = app.backgroundTasks.add(task)
  await begun.promise
  t.equal(await handle.settled(), 'failed')
  go.resolve()
  t.equal(await read.promise, true)
})

test('cancel() of a running defined task aborts its signal', async t => {
  const begun = signal()
  const task = defineTask('task', async (_payload: undefined, { signal }: TaskContext) => {
    begun.resolve()
    await new Promise<void>(resolve => { signal.onabort = () => resolve() })
  })
  const { app } = await createApp(t, { tasks: [task] })
  const handle = app.backgroundTasks.add(task)
  await begun.promise
  t.equal(await handle.cancel(), true)
  await settled(app, { cancelled: 1 })
})

test('called as a function, it runs its handler directly, with a plain default context', async t => {
  const task = defineTask('double', (n: number, ctx: TaskContext) => {
    ctx.progress(1)
    ctx.log.child({ a: 1 }).info('to nobody')
    return { double: n * 2, name: ctx.name, attempt: ctx.attempt, requestId: ctx.requestId, aborted: ctx.signal.aborted }
  })
  t.equal(task.name, 'double')
  t.same(task(21), { double: 42, name: 'double', attempt: 1, requestId: null, aborted: false })
  t.match(task(21, { attempt: 3 }), { attempt: 3, name: 'double' })
  const events: number[] = []
  task(1, { progress: value => { events.push(value as number) } })
  t.same(events, [1])
})

test('a task may call another one with its own context', async t => {
  const inner = defineTask('inner', (_payload: undefined, ctx: TaskContext) => `${ctx.name} ${ctx.requestId} ${ctx.attempt}`)
  let seen = ''
  const outer = defineTask('outer', (_payload: undefined, ctx: TaskContext) => { seen = inner(undefined, ctx) })
  const { app } = await createApp(t, { tasks: [outer] })
  app.backgroundTasks.add(outer)
  await settled(app, { completed: 1 })
  t.equal(seen, 'outer null 1')
})

test('a definition that the application does not know is refused at add', async t => {
  const known = defineTask('known', () => {})
  const unknown = defineTask('unknown', () => {})
  const namesake = defineTask('known', () => {})
  const { app } = await createApp(t, { tasks: [known] })
  t.throws(() => app.backgroundTasks.add(unknown), { code: 'FST_BGT_UNKNOWN_TASK', message: /'unknown' is not known here.*received \[ 'known' \]/ })
  t.throws(() => app.backgroundTasks.add(namesake), { code: 'FST_BGT_UNKNOWN_TASK' })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('defineTask refuses arguments that make no task', async t => {
  t.throws(() => defineTask('', () => {}), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'name'/ })
  t.throws(() => defineTask(undefined as never, () => {}), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'name'/ })
  for (const options of [null, 5]) {
    t.throws(() => defineTask('task', () => {}, options as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'options' must be an object/ })
  }
  t.throws(() => defineTask(1 as never, () => {}), { code: 'FST_BGT_INVALID_TASK_OPTION' })
  t.throws(() => defineTask('task', 'handler' as never), { code: 'FST_BGT_INVALID_TASK', message: /received 'handler'/ })
  t.throws(() => defineTask('task', () => {}, { attempts: 0 }), { code: 'FST_BGT_INVALID_TASK_OPTION' })
  t.throws(() => defineTask('task', () => {}, { local: 1 } as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'local' must be a boolean, received 1/ })
  t.throws(() => defineTask('task', () => {}, { singleArgument: 1 } as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'singleArgument' must be a boolean, received 1/ })
  t.throws(() => defineTask('task', () => {}, { signal: true } as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'signal' must be one of runOn, timeout, attempts, backoff, delay, key, local, singleArgument, transfer, received true/ })
  t.throws(() => defineTask('task', () => {}, { retries: 3 } as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'retries' must be one of runOn, .* transfer, received 3/ })
})
