import { test, type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import { defineTask, type BackgroundTasksOptions, type Outcome } from '../index'
import { until } from './support/until'
import { createApp, listen, settled } from './support/server'
import { StubBackend } from './support/stub-backend'

// A framework that turns errors into replies itself leaves Fastify's onError hooks out: the option `outcome` tells.

type Ask = NonNullable<BackgroundTasksOptions['outcome']>

const serverErrors: Ask = (_request, reply) => reply.statusCode >= 500 ? 'failure' : undefined

/** A route that answers with the status of its path, and adds a task of each kind before. */
function addRoute (app: FastifyInstance, ran: string[], outcomes: Outcome[]): void {
  app.get<{ Params: { status: string } }>('/:status', async (request, reply) => {
    request.backgroundTasks.add(() => { ran.push('success') })
    request.backgroundTasks.add({ runOn: 'failure' }, () => { ran.push('failure') })
    request.backgroundTasks.add({ runOn: 'always' }, () => { ran.push('always') })
    request.backgroundTasks.add({ runOn: outcome => { outcomes.push(outcome); return outcome.failed } }, () => { ran.push('predicate') })
    reply.code(Number(request.params.status))
    return 'x'
  })
}

async function answered (app: FastifyInstance, path: string): Promise<number> {
  const { url } = await listen(app)
  const response = await fetch(url + path)
  await response.text()
  return response.status
}

test('a reply that the option calls a failure: success tasks are dropped, failure tasks run, a predicate sees it', async t => {
  const { app } = await createApp(t, { outcome: serverErrors })
  const ran: string[] = []
  const outcomes: Outcome[] = []
  addRoute(app, ran, outcomes)
  t.equal(await answered(app, '/502'), 502)
  await settled(app, { completed: 3, dropped: 1 })
  t.same(ran, ['failure', 'always', 'predicate'])
  t.same(outcomes, [{ statusCode: 502, error: null, failed: true, aborted: false }])
})

for (const [what, outcome] of [
  ['undefined', serverErrors],
  ["'success'", () => 'success']
] as Array<[string, Ask]>) {
  test(`${what}: the reply is a success`, async t => {
    const { app, log } = await createApp(t, { outcome })
    const ran: string[] = []
    addRoute(app, ran, [])
    t.equal(await answered(app, '/404'), 404)
    await settled(app, { completed: 2, dropped: 2 })
    t.same(ran, ['success', 'always'])
    t.same(log.filter(({ level }) => level >= 40), [])
  })
}

test('the option gets the request and its reply, and is not asked where an error has answered already', async t => {
  const asked: string[] = []
  const { app } = await createApp(t, { outcome: (request, reply) => { asked.push(`${request.url} ${reply.statusCode}`); return 'success' } })
  const ran: string[] = []
  app.get('/throws', async request => {
    request.backgroundTasks.add(() => { ran.push('success') })
    request.backgroundTasks.add({ runOn: 'failure' }, () => { ran.push('failure') })
    throw new Error('boom')
  })
  app.get('/returns', async request => {
    request.backgroundTasks.add(() => { ran.push('returned') })
    return 'x'
  })
  app.get('/nothing', async () => 'x')
  const { url } = await listen(app)
  for (const path of ['/throws', '/returns', '/nothing']) await (await fetch(url + path)).text()
  await settled(app, { completed: 2, dropped: 1 })
  t.same(ran, ['failure', 'returned'])
  t.same(asked, ['/returns 200'])
})

for (const [what, outcome, message] of [
  ['throws', () => { throw new Error('in outcome') }, /in outcome/],
  ['answers what is no outcome', () => 'failed', /'outcome' must be a function that returns 'success', 'failure' or undefined, received 'failed'/],
  ['is async', async () => { throw new Error('nobody hears of this') }, /received Promise/]
] as Array<[string, never, RegExp]>) {
  test(`an option that ${what} is logged, and the reply is a success`, async t => {
    const { app, log } = await createApp(t, { outcome })
    const ran: string[] = []
    addRoute(app, ran, [])
    t.equal(await answered(app, '/500'), 500)
    await settled(app, { completed: 2, dropped: 2 })
    t.same(ran, ['success', 'always'])
    t.match(log.filter(({ msg }) => msg.startsWith("the option 'outcome'")), [{ level: 50, reqId: 'req-1', err: { message } }])
  })
}

/** Which of a request's durable tasks were stored, for a reply with status 500. */
async function storedOf (t: Test, options: BackgroundTasksOptions): Promise<unknown[]> {
  const backend = new StubBackend()
  const task = defineTask('task', async (_payload: unknown) => {})
  const { app } = await createApp(t, { backend, worker: false, tasks: [task], ...options })
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(task, 'success')
    request.backgroundTasks.add({ runOn: 'failure' }, task, 'failure')
    reply.code(500)
    return 'x'
  })
  t.equal(await answered(app, '/'), 500)
  await until('every task has settled', () => app.backgroundTasks.stats().collecting === 0)
  return backend.payloads
}

test('with a backend: a failure by the option stores the tasks for failures alone', async t => {
  t.same(await storedOf(t, { outcome: serverErrors }), ['failure'])
})

test('with a backend: without it a returned 500 is a success', async t => {
  t.same(await storedOf(t, {}), ['success'])
})

test('with a backend: a reply that the option has called a failure, and that then fails, stores the tasks for failures once', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', async (_payload: unknown) => {})
  const { app } = await createApp(t, { backend, worker: false, tasks: [task], outcome: serverErrors })
  app.get('/', async (request, reply) => {
    request.backgroundTasks.add(task, 'success')
    request.backgroundTasks.add({ runOn: 'failure' }, task, 'failure')
    // Node refuses it when the head of the reply is written, which comes after all hooks.
    reply.code(500).header('x-lines', 'one\ntwo')
    return 'x'
  })
  t.equal(await answered(app, '/'), 500)
  await until('every task has settled', () => app.backgroundTasks.stats().collecting === 0)
  t.same(backend.payloads, ['failure'])
})
