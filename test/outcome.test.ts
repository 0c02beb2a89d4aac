import { test } from 'tap'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Outcome } from '../index'
import { createApp, listen, settled } from './support/server'

/** Adds a task of every kind, named for its `runOn`. */
function addAll (request: FastifyRequest, ran: string[], outcomes: Outcome[], suffix = ''): void {
  request.backgroundTasks.add(() => { ran.push(`default${suffix}`) })
  for (const runOn of ['success', 'failure', 'always'] as const) {
    request.backgroundTasks.add({ runOn }, () => { ran.push(runOn + suffix) })
  }
  request.backgroundTasks.add({ runOn: outcome => { outcomes.push(outcome); return outcome.statusCode >= 500 } }, () => { ran.push(`predicate${suffix}`) })
}

const cases: Array<{ what: string, route: (app: FastifyInstance, add: (request: FastifyRequest) => void) => void, status: number, ran: string[], error: string | null }> = [
  {
    what: 'a returned value',
    route: (app, add) => app.get('/', async request => { add(request); return 'x' }),
    status: 200,
    ran: ['default', 'success', 'always'],
    error: null
  },
  {
    what: 'a returned 500: no error',
    route: (app, add) => app.get('/', async (request, reply) => { add(request); reply.code(500); return 'x' }),
    status: 500,
    ran: ['default', 'success', 'always', 'predicate'],
    error: null
  },
  {
    what: 'callNotFound: no error',
    route: (app, add) => app.get('/', (request, reply) => { add(request); reply.callNotFound() }),
    status: 404,
    ran: ['default', 'success', 'always'],
    error: null
  },
  {
    what: 'a throw',
    route: (app, add) => app.get('/', request => { add(request); throw new Error('boom') }),
    status: 500,
    ran: ['failure', 'always', 'predicate'],
    error: 'boom'
  },
  {
    what: 'a rejection with a 4xx',
    route: (app, add) => app.get('/', async request => { add(request); throw Object.assign(new Error('boom'), { statusCode: 422 }) }),
    status: 422,
    ran: ['failure', 'always'],
    error: 'boom'
  },
  {
    what: 'reply.send(error)',
    route: (app, add) => app.get('/', (request, reply) => { add(request); reply.send(new Error('boom')) }),
    status: 500,
    ran: ['failure', 'always', 'predicate'],
    error: 'boom'
  },
  {
    what: 'a request that its schema refuses',
    route: (app, add) => app.get('/', {
      preValidation: async request => { add(request) },
      schema: { querystring: { type: 'object', required: ['q'], properties: { q: { type: 'string' } } } }
    }, async () => 'x'),
    status: 400,
    ran: ['failure', 'always'],
    error: "querystring must have required property 'q'"
  },
  {
    what: 'attachValidation: no error',
    route: (app, add) => app.get('/', {
      attachValidation: true,
      schema: { querystring: { type: 'object', required: ['q'], properties: { q: { type: 'string' } } } }
    }, async (request, reply) => { add(request); return reply.code(400).send('x') }),
    status: 400,
    ran: ['default', 'success', 'always'],
    error: null
  },
  {
    what: 'a response that cannot be serialized',
    route: (app, add) => app.get('/', {
      schema: { response: { 200: { type: 'object', required: ['a'], properties: { a: { type: 'string' } } } } }
    }, async request => { add(request); return { b: 1 } }),
    status: 500,
    ran: ['failure', 'always', 'predicate'],
    error: '"a" is required!'
  },
  {
    what: 'an onSend hook that fails',
    route: (app, add) => app.get('/', {
      onSend: async (_request, reply) => { if (reply.statusCode === 200) throw new Error('onSend') }
    }, async request => { add(request); return 'x' }),
    status: 500,
    ran: ['failure', 'always', 'predicate'],
    error: 'onSend'
  }
]

for (const { what, route, status, ran, error } of cases) {
  test(`outcome: ${what}`, async t => {
    const { app, log } = await createApp(t)
    const seen: string[] = []
    const outcomes: Outcome[] = []
    route(app, request => addAll(request, seen, outcomes))
    const { url } = await listen(app)
    const response = await fetch(url)
    await response.text()
    t.equal(response.status, status)
    await settled(app, { completed: ran.length, dropped: 5 - ran.length })
    t.same(seen, ran)
    t.equal(outcomes.length, 1)
    t.equal(outcomes[0]!.statusCode, status)
    t.equal(outcomes[0]!.aborted, false)
    t.equal(outcomes[0]!.error?.message ?? null, error)
    const dropped = log.filter(line => line.msg === 'background task dropped')
    t.equal(dropped.length, 5 - ran.length, 'each dropped task has its debug line')
    for (const line of dropped) t.match(line, { level: 20, reqId: 'req-1', task: { id: /^[0-9a-f-]{36}$/, name: 'anonymous' } })
  })
}

test('tasks added in an error handler run, also when that handler fails in turn', async t => {
  for (const fails of [false, true]) {
    const { app } = await createApp(t)
    const ran: string[] = []
    app.setErrorHandler((error, request, reply) => {
      addAll(request, ran, [], ' after')
      if (fails) throw error
      reply.code(500).send('x')
    })
    app.get('/', async request => {
      addAll(request, ran, [], ' before')
      throw new Error('boom')
    })
    const { url } = await listen(app)
    t.equal((await fetch(url)).status, 500)
    await settled(app, { completed: 8, dropped: 2 })
    t.same(ran, [
      'failure before', 'always before', 'predicate before',
      'default after', 'success after', 'failure after', 'always after', 'predicate after'
    ])
  }
})

test('a task added only in the error handler sees the error', async t => {
  const { app } = await createApp(t)
  let seen: Outcome | undefined
  app.setErrorHandler((_error, request, reply) => {
    request.backgroundTasks.add({ runOn: outcome => { seen = outcome; return true } }, () => {})
    reply.code(503).send('x')
  })
  app.get('/', async () => { throw new Error('boom') })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.match(seen, { statusCode: 503, error: { message: 'boom' }, aborted: false })
})

test('a predicate that throws fails its task, visibly, and no other', async t => {
  const { app, log } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add({ name: 'judged', runOn: () => { throw new Error('in the predicate') } }, () => t.fail('must not run'))
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1, failed: 1 })
  t.match(log.find(line => line.level === 50), { err: { message: 'in the predicate' }, task: { name: 'judged' } })
})

test('an onSend hook that fails for the error page too: the first error is the one that counts', async t => {
  const { app } = await createApp(t)
  const seen: Outcome[] = []
  let errors = 0
  app.get('/', { onSend: async () => { throw new Error(`onSend ${++errors}`) } }, async request => {
    request.backgroundTasks.add({ runOn: outcome => { seen.push(outcome); return true } }, () => {})
    request.backgroundTasks.add(() => t.fail('must not run'))
    return 'x'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 500)
  await settled(app, { completed: 1, dropped: 1 })
  t.ok(errors > 1)
  t.equal(seen[0]!.error?.message, 'onSend 1')
})

for (const thrown of [new Error('boom'), undefined]) {
  test(`a handler that throws ${thrown === undefined ? 'nothing' : 'an error'} after it has written to the raw reply has failed`, async t => {
    const { app } = await createApp(t)
    const ran: string[] = []
    app.setErrorHandler((_error, _request, reply) => { reply.raw.end(', the last part') })
    app.get('/', async (request, reply) => {
      addAll(request, ran, [])
      reply.raw.write('the first part')
      throw thrown
    })
    const { url } = await listen(app)
    t.equal(await (await fetch(url)).text(), 'the first part, the last part')
    await settled(app, { completed: 2, dropped: 3 })
    t.same(ran, ['failure', 'always'])
  })
}
