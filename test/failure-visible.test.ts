import Fastify, { type FastifyRequest } from 'fastify'
import { test } from 'tap'
import backgroundTasks, { type TaskHandle } from '../index'
import { createApp, listen, settled } from './support/server'

test('a failure is logged with the request, then given to onError', async t => {
  const calls: Array<[unknown, TaskHandle, FastifyRequest | null, number]> = []
  const { app, log } = await createApp(t, {
    onError: (error, task, request) => { calls.push([error, task, request, log.filter(line => line.level === 50).length]) }
  })
  let added!: TaskHandle
  app.get('/', async request => {
    added = request.backgroundTasks.add(function sendMail () { throw new Error('no route to host') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1 })
  const line = log.find(line => line.level === 50)
  t.match(line, {
    msg: 'background task failed',
    reqId: 'req-1',
    err: { type: 'Error', message: 'no route to host', stack: /sendMail/ },
    task: { id: added.id, name: 'sendMail' }
  })
  t.equal(calls.length, 1)
  const [error, task, request, logged] = calls[0]!
  t.equal((error as Error).message, 'no route to host')
  t.equal(task, added)
  t.equal(request?.id, 'req-1')
  t.equal(logged, 1, 'logged first')

  app.backgroundTasks.add(() => { throw new Error('of the application') })
  await settled(app, { failed: 2 })
  t.equal(calls[1]![2], null)
})

for (const [what, onError] of [
  ['throws', () => { throw new Error('in onError') }],
  ['rejects', async () => { throw new Error('in onError') }]
] as const) {
  test(`an onError that ${what} is logged and harms nothing`, async t => {
    const { app, log } = await createApp(t, { onError })
    app.get('/', async request => {
      request.backgroundTasks.add({ name: 'failing' }, () => { throw new Error('boom') })
      request.backgroundTasks.add(() => {})
      return 'x'
    })
    const { url } = await listen(app)
    await fetch(url)
    await settled(app, { failed: 1, completed: 1 })
    t.match(log.filter(line => line.level === 50), [
      { msg: 'background task failed', err: { message: 'boom' } },
      { msg: 'onError of background tasks failed', err: { message: 'in onError' }, task: { name: 'failing' } }
    ])
  })
}

test('without a logger a failure is a process warning, with the stack', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  const warnings: Array<Error & { code?: string, detail?: string }> = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  app.get('/', async request => {
    request.backgroundTasks.add(function sendMail () { throw new Error('no route to host') })
    request.backgroundTasks.add({ name: 'odd' }, () => { throw null }) // eslint-disable-line no-throw-literal -- what is no error is what is tested
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 2 })
  t.match(warnings, [
    { code: 'FST_BGT_TASK_FAILED', message: "background task failed: 'sendMail'", detail: /Error: no route to host\n.*sendMail/ },
    { code: 'FST_BGT_TASK_FAILED', message: "background task failed: 'odd'", detail: 'null' }
  ])
})

test('a logger that has no level is a logger', async t => {
  const lines: string[] = []
  const write = (_fields: unknown, message?: string) => { if (message !== undefined) lines.push(message) }
  const logger = { trace () {}, debug () {}, info () {}, warn () {}, error: write, fatal () {}, silent () {}, child: () => logger }
  const app = Fastify({ forceCloseConnections: true, loggerInstance: logger as never })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  const onWarning = (warning: Error) => t.fail(warning.message)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  t.equal(await app.backgroundTasks.add(() => { throw new Error('boom') }).settled(), 'failed')
  t.same(lines, ['background task failed'])
})

test('a logger that the user has silenced stays silent', async t => {
  const app = Fastify({ forceCloseConnections: true, logger: { level: 'silent' } })
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  const onWarning = (warning: Error) => t.fail(warning.message)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  app.get('/', async request => {
    request.backgroundTasks.add(() => { throw new Error('boom') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1 })
})
