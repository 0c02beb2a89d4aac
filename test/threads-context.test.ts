import { test } from 'tap'
import { defineTask } from '../index'
import { createDiApp } from './support/awilix'
import { begun, createApp, listen, settled } from './support/server'
import { moduleFile } from './support/threads'

test('the context: id, name, attempt, request id', async t => {
  const task = defineTask('task', moduleFile(t, `
    export default async (payload, { id, name, attempt, requestId, signal }) => {
      if (attempt === 1) throw new Error('once more')
      return { id, name, attempt, requestId, aborted: signal.aborted }
    }`), { attempts: 2 })
  const { app } = await createApp(t, { tasks: [task] })
  let id = ''
  app.get('/', async request => {
    id = request.backgroundTasks.add({ name: 'renamed' }, task).id
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1, retried: 1 })
  t.match(await app.backgroundTasks.find(id), {
    attempts: 2, result: { id, name: 'renamed', attempt: 2, requestId: 'req-1', aborted: false }
  })
})

test('progress can be seen while the task runs', async t => {
  const task = defineTask('task', moduleFile(t, `
    import { once } from 'node:events'
    export default async (payload, ctx) => {
      ctx.progress({ page: 1 })
      await once(ctx.signal, 'abort')
    }`))
  const { app } = await createApp(t, { tasks: [task] })
  const handle = app.backgroundTasks.add(task)
  await begun(app, handle.id)
  t.match(await app.backgroundTasks.find(handle.id), { state: 'running', progress: { page: 1 } })
  t.equal(await handle.cancel(), true)
})

test('progress that cannot leave the thread fails the task', async t => {
  const task = defineTask('task', moduleFile(t, 'export default (payload, ctx) => ctx.progress(() => {})'))
  const { app, log } = await createApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await settled(app, { failed: 1 })
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { message: /could not be cloned/ } })
})

test('log lines come out of the application\'s logger, with request and task', async t => {
  const task = defineTask('task', moduleFile(t, `
    export default (payload, { log }) => {
      log.info('plain')
      log.warn({ n: 1 }, 'with %s', 'fields')
      log.child({ page: 2 }).error(Object.assign(new TypeError('boom', { cause: new Error('why') }), { code: 'E_BOOM' }), 'an error')
      log.info({ failure: new Error('inside'), nothing: null })
      log.info({ fn () {}, n: 1n, list: [1] }, 'cannot be cloned %s', () => {})
      log.info(5)
      log.info(undefined, 'nothing %s', 'first')
      log.info(null, 'null first')
      log.info({ url: new URL('http://localhost/a'), bad: { toJSON () { throw new Error('no') } } }, 'with a JSON of its own')
      log.debug('debug')
      log.trace('below the level')
      log.silent('to nobody')
      return [log.level, log.isLevelEnabled('debug'), log.isLevelEnabled('trace')]
    }`))
  const { app, log } = await createApp(t, { tasks: [task] })
  let id = ''
  app.get('/', async request => {
    id = request.backgroundTasks.add(task).id
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  const lines = log.filter(line => line.task?.name === 'task')
  const common = { reqId: 'req-1', task: { id, name: 'task', attempt: 1 } }
  t.match(lines, [
    { ...common, level: 30, msg: 'plain' },
    { ...common, level: 40, msg: 'with fields', n: 1 },
    { ...common, level: 50, msg: 'an error', page: 2, err: { type: 'TypeError', message: 'boom: why', code: 'E_BOOM', stack: /task-\d+\.mjs/ } },
    { ...common, failure: { } },
    { ...common, msg: /cannot be cloned/, fn: '[Function: fn]', list: [1] },
    { ...common, msg: '5' },
    { ...common, msg: 'nothing first' },
    { ...common, msg: 'null first' },
    { ...common, msg: 'with a JSON of its own', url: 'http://localhost/a', bad: '{ toJSON: [Function: toJSON] }' },
    { ...common, level: 20, msg: 'debug' }
  ])
  t.equal(lines.length, 10)
  t.match(await app.backgroundTasks.find(id), { result: ['debug', true, false] })
})

test('without a logger, lines go nowhere', async t => {
  const task = defineTask<undefined, boolean>('task', moduleFile(t, 'export default (payload, ctx) => { ctx.log.info("x"); return true }'))
  const { app } = await createApp(t, { tasks: [task] }, { logger: false })
  app.backgroundTasks.add(task)
  await settled(app, { completed: 1 })
})

test('there is no DI scope on a thread, and asking for it says so', async t => {
  const task = defineTask('task', moduleFile(t, 'export default (payload, ctx) => ctx.diScope.resolve("mailer")'))
  const { app, log } = await createDiApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await settled(app, { failed: 1 })
  t.match(log.find(({ msg }) => msg === 'background task failed'), { err: { code: 'FST_BGT_NO_DI_SCOPE', message: /'task' received a call on a worker thread/ } })
})

test('a field that has a JSON of its own, such as a URL, is logged as that', async t => {
  const task = defineTask('task', moduleFile(t, "export default (payload, { log }) => log.info({ url: new URL('http://localhost/a') }, 'fetched')"))
  const { app, log } = await createApp(t, { tasks: [task] })
  await app.backgroundTasks.add(task).settled()
  t.equal(log.find(({ msg }) => msg === 'fetched')!.url, 'http://localhost/a')
})
