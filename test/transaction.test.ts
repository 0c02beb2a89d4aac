import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasks, type BackgroundTasksOptions, type TaskHandle } from '../index'
import { addChannel, settleChannel } from '../lib/observe/channels'
import { createDiApp } from './support/awilix'
import { createApp, listen, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { telemetry } from './support/telemetry'
import { moduleFile } from './support/threads'
import { ends } from './support/until'
import type { StoredTask } from '../types/backend'
import type { SettleMessage, TaskMessage } from '../types/messages'

// `addInTransaction`, whatever the store: the store is the test.

const client = { query: async () => ({ rows: [] }) }

/** A backend that takes transactions. */
class TransactionalBackend extends StubBackend {
  /** The tasks stored in the transaction of the test's client. */
  readonly inTransaction: StoredTask[] = []
  /** Replaced by a test that wants another end. */
  onTransaction: (task: StoredTask) => string | Promise<string> = task => task.id

  storeInTransaction (given: unknown, task: StoredTask): string | Promise<string> {
    if (given !== client) throw new Error('another client')
    this.inTransaction.push(task)
    return this.onTransaction(task)
  }
}

async function start (t: Test, options: BackgroundTasksOptions = {}) {
  const backend = new TransactionalBackend()
  const { app, log } = await createApp(t, { backend, tasks: [task, delayed], ...options })
  await app.ready()
  return { app, log, backend, add: app.backgroundTasks.addInTransaction.bind(app.backgroundTasks, client) as any }
}

const task = defineTask('task', async (_payload: unknown) => {})
const delayed = defineTask('delayed', async () => {}, { delay: 1_000, runOn: 'failure', key: 'one' })

test('what stays in this process is refused, before anything is done with it', async t => {
  const local = defineTask('local', moduleFile(t, 'export default () => {}'), { local: true, transfer: (bytes: Uint8Array) => [bytes] })
  const threaded = defineTask('threaded', moduleFile(t, 'export default () => {}'))
  const { app, add } = await start(t, { tasks: [local] })
  const bytes = new Uint8Array(8)
  t.throws(() => add(local, bytes), { code: 'FST_BGT_NOT_DURABLE', message: "addInTransaction needs a defined task that a backend keeps, received 'local', which is defined with local: true: add it after the commit" })
  t.equal(bytes.length, 8)
  t.throws(() => add(function send () {}), { code: 'FST_BGT_NOT_DURABLE', message: /received the function 'send'/ })
  t.throws(() => add({ delay: 1 }, () => {}), { code: 'FST_BGT_NOT_DURABLE', message: /the function 'anonymous'/ })
  for (const no of [[undefined], ['task'], [{}, 'task'], [{}], [Promise.resolve()], [function * () {}]]) t.throws(() => add(...no), { code: 'FST_BGT_INVALID_TASK' })
  t.match(app.backgroundTasks.stats(), { accepted: 0 })

  const { app: bare } = await createApp(t, { tasks: [task, threaded], threads: { maxQueue: 1 } })
  await bare.ready()
  for (const one of [task, threaded, threaded]) {
    t.throws(() => bare.backgroundTasks.addInTransaction(client, one as typeof task, 1), { code: 'FST_BGT_NOT_DURABLE', message: /'(task|threaded)' in an application without a backend/ })
  }
})

test('a backend that has no transactions is refused, with its reason and the way out', async t => {
  const plain = new StubBackend()
  for (const backend of [plain, Object.assign(new StubBackend(), { refuses: { transaction: 'a stub has none' } })]) {
    const { app } = await createApp(t, { backend, tasks: [task] })
    await app.ready()
    t.throws(() => app.backgroundTasks.addInTransaction(client, task, 1), {
      code: 'FST_BGT_UNSUPPORTED',
      message: `The backend 'stub' does not have addInTransaction: ${backend === plain ? 'its store takes no part in the transaction of a database' : 'a stub has none'}; write the task to a table of your own in the transaction, or add it after the commit`
    })
  }
})

test('without its collector it is refused', async t => {
  const { app } = await start(t, { asyncContext: true })
  await app.ready()
  for (const { addInTransaction } of [app.backgroundTasks, app.backgroundTasks.current]) t.throws(() => addInTransaction(client, task, 1), { code: 'FST_BGT_UNBOUND' })
  const { app: other } = await createApp(t)
  other.get('/', async ({ backgroundTasks: { addInTransaction } }) => addInTransaction(client, task, 1))
  t.match((await other.inject('/')).json(), { code: 'FST_BGT_UNBOUND' })
})

test('runOn and key are refused; those of the definition have no effect', async t => {
  const { add, backend } = await start(t)
  for (const runOn of ['success', 'failure', 'always', () => true]) t.throws(() => add({ runOn }, task, 1), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'runOn' must be left out in addInTransaction, where the commit decides/ })
  t.throws(() => add({ key: 'a' }, task, 1), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'key' must be left out in addInTransaction, where no task replaces another, received 'a'/ })
  t.throws(() => add({ atempts: 1 }, task, 1), { code: 'FST_BGT_INVALID_TASK_OPTION' })
  await add(delayed)
  await add(delayed)
  await add({ delay: 5, attempts: 2 }, delayed)
  t.match(backend.inTransaction, [{ name: 'delayed', delay: 1_000, payload: null, requestId: null }, { delay: 1_000 }, { delay: 5, attempts: 2 }])
})

test('what add refuses is refused', async t => {
  const { app, add } = await start(t, { maxPending: 1 })
  t.throws(() => add(defineTask('stranger', () => {})), { code: 'FST_BGT_UNKNOWN_TASK' })
  t.throws(() => add(task, new Date()), { code: 'FST_BGT_INVALID_PAYLOAD' })
  app.backgroundTasks.add({ delay: 60_000 }, () => {})
  t.throws(() => add(task), { code: 'FST_BGT_OVERLOADED' })
  t.match(app.backgroundTasks.stats(), { accepted: 1 })
  await app.close()
  t.throws(() => add(task), { code: 'FST_BGT_CLOSED' })
})

test('before the start there is no store; while the application closes, add is accepted as ever', async t => {
  const backend = new TransactionalBackend()
  const { app } = await createApp(t, { backend, tasks: [task] })
  t.throws(() => app.backgroundTasks.addInTransaction(client, task, 1), { code: 'FST_BGT_STORE_FAILED', message: /the application has not started/ })
  await app.ready()
  const commit = signal<string>()
  backend.onTransaction = () => commit.promise
  const adding = app.backgroundTasks.addInTransaction(client, task, 1)
  const closing = app.close()
  await turns()
  t.equal(backend.closes, 0, 'the statement under way is waited for')
  commit.resolve(backend.inTransaction[0]!.id)
  t.equal((await adding).state, 'stored')
  await ends('the close', closing)
  t.match(app.backgroundTasks.stats(), { accepted: 1, stored: 1 })
})

test('the outcome of the request plays no part, and the reply does not wait for the backend', async t => {
  const backend = new TransactionalBackend()
  const { app, log } = await createApp(t, { backend, tasks: [task], asyncContext: true })
  const handles: TaskHandle[] = []
  app.get('/', async request => {
    handles.push(await request.backgroundTasks.addInTransaction(client, task, 1), await app.backgroundTasks.current.addInTransaction(client, task, 2))
    backend.onTransaction = () => 'another'
    handles.push(await request.backgroundTasks.addInTransaction(client, { dedupe: 'a' }, task, 3))
    throw new Error('boom')
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 500)
  await app.backgroundTasks.idle()
  t.same(handles.map(({ state }) => state), ['stored', 'stored', 'dropped'])
  t.same(backend.written, [])
  const { reqId } = log.find(({ msg }) => msg === 'request completed') as { reqId: string }
  t.same(backend.inTransaction.map(({ requestId }) => requestId), [reqId, reqId, reqId])
  t.match(log.find(({ msg }) => msg === 'background task dropped'), { reqId, why: 'its dedupe id is taken by task another' })
  await app.backgroundTasks.current.addInTransaction(client, task, 4)
  t.equal(backend.inTransaction.at(-1)!.requestId, null, 'outside of a request the application adds')
})

test('a scope that has outlived its request adds with the id of the request', async t => {
  const backend = new TransactionalBackend()
  const { app } = await createDiApp(t, { backend, tasks: [task] })
  const over = signal<{ id: string, tasks: () => BackgroundTasks }>()
  app.addHook('onResponse', async request => {
    const { diScope, id } = request
    over.resolve({ id, tasks: () => diScope.resolve<BackgroundTasks>('backgroundTasks') })
  })
  app.get('/', async () => 'x')
  const { url } = await listen(app)
  await fetch(url)
  const { id, tasks } = await ends('the response', over.promise)
  await turns()
  await tasks().addInTransaction(client, task, 1)
  t.match(backend.inTransaction, [{ requestId: id }])
})

test('with mode capture the task is captured at once, with or without a backend, and the client is left alone', async t => {
  const backend = new TransactionalBackend()
  for (const more of [{}, { backend }]) {
    const { app } = await createApp(t, { ...more, tasks: [task, delayed], mode: 'capture' })
    app.get('/', async request => { await request.backgroundTasks.addInTransaction(undefined as never, { delay: 1_000 }, task, { a: 1 }); throw new Error('boom') })
    await app.inject('/')
    await app.backgroundTasks.idle()
    t.match(app.backgroundTasks.captured, [{ name: 'task', args: [], payload: { a: 1 }, requestId: /./ }])
    t.throws(() => app.backgroundTasks.addInTransaction(client, (() => {}) as never), { code: 'FST_BGT_NOT_DURABLE' })
  }
  t.same(backend.inTransaction, [])
})

test('channels and traces tell of it as of any other task', async t => {
  const { span, spans, tracer } = telemetry(t)
  const { app, add, backend } = await start(t)
  const told: string[] = []
  const handles: TaskHandle[] = []
  const onAdd = (message: unknown) => {
    const { task, name } = message as TaskMessage
    told.push(`add ${name}`)
    handles.push(task)
    if (name === 'unwanted') task.cancel()
  }
  const onSettle = (message: unknown) => { told.push(`settle ${(message as SettleMessage).state}`) }
  addChannel.subscribe(onAdd)
  settleChannel.subscribe(onSettle)
  t.teardown(() => {
    addChannel.unsubscribe(onAdd)
    settleChannel.unsubscribe(onSettle)
  })
  const parent = tracer.startActiveSpan('parent', parent => {
    add({ name: 'stored' }, task, 1)
    parent.end()
    return parent
  })
  const { traceId, spanId } = span('send stored').spanContext()
  t.equal(traceId, parent.spanContext().traceId)
  t.match(backend.inTransaction[0]!.carrier, { traceparent: new RegExp(`${traceId}-${spanId}`) })

  backend.onTransaction = () => { throw new Error('at once') }
  t.throws(() => add({ name: 'refused' }, task), { message: 'at once' })
  backend.onTransaction = async () => { throw new Error('later') }
  await t.rejects(add({ name: 'refused' }, task), { message: 'later' })
  t.match(spans('send refused').map(({ status }) => status), [{ message: 'at once' }, { message: 'later' }])
  t.same(told, ['add stored', 'settle stored', 'add refused', 'settle dropped', 'add refused', 'settle dropped'])
  t.same(await ends('the calls of cancel', Promise.all(handles.slice(1).map(handle => handle.cancel()))), [false, false], 'a refused task keeps nobody waiting')
  t.match(app.backgroundTasks.stats(), { accepted: 3, stored: 1, dropped: 2 })
  t.equal((await add({ name: 'unwanted' }, task)).state, 'cancelled')
  t.equal(backend.inTransaction.length, 3, 'what a subscriber has cancelled is not stored')
})

test('settled() waits until the backend knows the task, also where it cannot be asked for a while', async t => {
  const { add, backend } = await start(t)
  let questions = 0
  backend.onFind = async id => {
    if (++questions === 2) throw new Error('away')
    return questions < 4 ? null : { id, name: 'task', state: 'completed', attempts: 1, progress: undefined, result: undefined, error: undefined }
  }
  const handle: TaskHandle = await add(task)
  t.equal(await ends('the end', handle.settled()), 'completed')
  t.equal(questions, 5)
})
