import type { FastifyRequest } from 'fastify'
import { Agent, get, type ClientRequest } from 'node:http'
import { Readable } from 'node:stream'
import { test } from 'tap'
import { defineTask, type BackgroundTasks } from '../../index'
import { createDiApp, type Handle } from '../support/awilix'
import { listen, signal as promised, turns } from '../support/server'
import { until } from '../support/until'

const REQUESTS = 10_000
const CONCURRENCY = 64

type Params = { Params: { id: string } }

test('ten thousand requests leave no scope undisposed, none disposed early, none disposed twice', async t => {
  let uses = 0
  const use = (handle: Handle) => {
    handle.use()
    uses++
  }
  const useLater = async (handle: Handle) => {
    use(handle)
    await turns(1)
    use(handle)
  }
  const defined = defineTask('defined', async (_payload: undefined, ctx) => {
    const handle = ctx.diScope!.resolve<Handle>('handle')
    await useLater(handle)
    if (ctx.attempt === 1) throw new Error('the first attempt')
  }, { attempts: 2 })

  const { app, handles } = await createDiApp(t, { tasks: [defined] }, {
    // Thousands of tasks fail here, as they should.
    fastify: { logger: { level: 'fatal' } }
  })
  const open = (request: FastifyRequest) => ({
    handle: request.diScope.resolve<Handle>('handle'),
    tasks: request.diScope.resolve<BackgroundTasks>('backgroundTasks')
  })
  const clients = new Map<string, ClientRequest>()
  const late: Array<() => void> = []

  /** Makes the request's client leave, and resolves once the server knows. */
  const abort = (request: FastifyRequest<Params>) => new Promise<void>(resolve => {
    request.raw.socket.once('close', () => resolve())
    clients.get(request.params.id)!.destroy()
  })

  const kinds: Record<string, { scopes: number, uses: number, settles: Record<string, number> }> = {}
  function kind (name: string, expected: typeof kinds[string], handler: (request: FastifyRequest<Params>, reply: any) => unknown) {
    kinds[name] = expected
    app.get<Params>(`/${name}/:id`, async (request, reply) => handler(request, reply))
  }

  kind('answered', { scopes: 1, uses: 4, settles: { completed: 2 } }, request => {
    const { handle, tasks } = open(request)
    tasks.add(useLater, handle)
    tasks.add(useLater, handle)
    return 'x'
  })
  kind('retried', { scopes: 1, uses: 4, settles: { completed: 2, retried: 2 } }, request => {
    const { handle, tasks } = open(request)
    let attempt = 0
    tasks.add({ attempts: 3, backoff: 1 }, () => {
      use(handle)
      if (++attempt < 3) throw new Error('not yet')
    })
    tasks.add(use, handle)
    return 'x'
  })
  kind('failing-task', { scopes: 1, uses: 2, settles: { failed: 1, completed: 1 } }, request => {
    const { handle, tasks } = open(request)
    tasks.add(async () => {
      use(handle)
      await turns(1)
      throw new Error('broken')
    })
    tasks.add(use, handle)
    return 'x'
  })
  kind('failing-handler', { scopes: 1, uses: 3, settles: { dropped: 1, completed: 2 } }, async request => {
    const { handle, tasks } = open(request)
    tasks.add(use, handle)
    tasks.add({ runOn: 'failure' }, useLater, handle)
    tasks.add({ runOn: 'always' }, use, handle)
    await turns(1)
    throw new Error('broken')
  })
  kind('timed-out', { scopes: 1, uses: 3, settles: { failed: 1, completed: 1 } }, request => {
    const { handle, tasks } = open(request)
    tasks.add({ timeout: 1, signal: true }, async signal => {
      use(handle)
      await new Promise(resolve => { signal.addEventListener('abort', resolve) })
      // Past its time, while the next task runs, it uses the handle still.
      await turns(2)
      use(handle)
    })
    tasks.add(use, handle)
    return 'x'
  })
  kind('defined', { scopes: 3, uses: 5, settles: { completed: 2, retried: 1 } }, request => {
    const { handle, tasks } = open(request)
    tasks.add(defined)
    tasks.add(use, handle)
    return 'x'
  })
  kind('late', { scopes: 2, uses: 3, settles: { completed: 2 } }, request => {
    const { handle, tasks } = open(request)
    tasks.add(use, handle)
    late.push(() => tasks.add(async () => { await useLater(open(request).handle) }))
    return 'x'
  })
  kind('aborted', { scopes: 1, uses: 4, settles: { completed: 2 } }, async request => {
    const { handle, tasks } = open(request)
    tasks.add(useLater, handle)
    await abort(request)
    await turns(1)
    tasks.add(useLater, handle)
    return 'x'
  })
  kind('aborted-and-failing', { scopes: 1, uses: 2, settles: { dropped: 1, completed: 1, retried: 1 } }, async request => {
    const { handle, tasks } = open(request)
    tasks.add(use, handle)
    let attempt = 0
    tasks.add({ runOn: 'always', attempts: 2 }, () => {
      use(handle)
      if (++attempt < 2) throw new Error('not yet')
    })
    await abort(request)
    throw new Error('broken')
  })
  kind('aborted-stream', { scopes: 1, uses: 2, settles: { completed: 1 } }, (request, reply) => {
    const { handle, tasks } = open(request)
    tasks.add(useLater, handle)
    // The first of it comes, the rest never.
    const body = new Readable({ read () {} })
    body.push('x')
    return reply.send(body)
  })

  const { port } = await listen(app)
  const agent = new Agent({ keepAlive: true, maxSockets: CONCURRENCY })
  t.teardown(() => agent.destroy())

  /** Resolves when the request has ended, one way or the other. */
  function send (name: string, id: string) {
    const { promise: ended, resolve: end } = promised()
    const client = get({ port, host: '127.0.0.1', agent, path: `/${name}/${id}` }, response => {
      if (name === 'aborted-stream') response.once('data', () => client.destroy())
      else response.resume()
      response.on('error', () => {})
    })
    clients.set(id, client)
    client.on('error', () => {})
    client.on('close', () => {
      clients.delete(id)
      end()
    })
    return ended
  }

  const names = Object.keys(kinds)
  const sent = Object.fromEntries(names.map(name => [name, 0]))
  let next = 0
  async function sendSome () {
    while (next < REQUESTS) {
      const id = next++
      const name = names[id % names.length]!
      sent[name]!++
      await send(name, String(id))
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, sendSome))
  await settle()
  for (const addLate of late) addLate()
  await settle()

  /** A client that has left has not waited for its handler, nor does a task that has timed out for its function. */
  async function settle () {
    await turns()
    await until('every task and function has ended', () => {
      const { collecting, pending, running, abandoned } = app.backgroundTasks.stats()
      return collecting + pending + running + abandoned === 0
    })
    await app.backgroundTasks.idle()
  }

  const expected = { scopes: 0, uses: 0, settles: {} as Record<string, number> }
  for (const name of names) {
    const { scopes, uses, settles } = kinds[name]!
    expected.scopes += scopes * sent[name]!
    expected.uses += uses * sent[name]!
    for (const [state, count] of Object.entries(settles)) {
      expected.settles[state] = (expected.settles[state] ?? 0) + count * sent[name]!
    }
  }
  const { accepted, ...stats } = app.backgroundTasks.stats()
  t.equal(Object.values(sent).reduce((sum, count) => sum + count), REQUESTS)
  t.same(Object.fromEntries(Object.entries(stats).filter(([, count]) => count !== 0)), expected.settles, 'every task ended as it should')
  t.equal(uses, expected.uses, 'none disposed early: every use found its handle open')
  t.equal(handles.length, expected.scopes, 'every scope was used')
  t.equal(handles.filter(handle => handle.closed === 0).length, 0, 'none undisposed')
  t.equal(handles.filter(handle => handle.closed > 1).length, 0, 'none disposed twice')
})
