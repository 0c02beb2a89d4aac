import Fastify, { type FastifyInstance } from 'fastify'
import { fastifyAwilixPlugin } from '@fastify/awilix'
import { asClass, createContainer, Lifetime } from 'awilix'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import backgroundTasks, { defineTask, UnrecoverableError, type BackgroundTasksOptions, type TaskContext, type TaskHandle, type TaskInfo } from '../../index'
import { runChannel, type RunMessage } from '../../lib/diagnostics'
import { setPropagation } from '../../lib/propagation'
import { Handle } from './awilix'

/*
 * What a defined task does, wherever it is kept: one suite for all backends. Each test gets plugin options from a factory;
 * two applications with options of one call share what they keep.
 */

export interface Conformance {
  /** Options with a new, empty place for tasks, but without the definitions. */
  options: () => Promise<BackgroundTasksOptions>
  /** What the tasks outlive: nothing, or the process. */
  durable: boolean
}

const DEADLINE = 60_000

/** Waits until something is so, and fails when that takes too long. */
export async function until<T> (what: string, get: () => Promise<T | undefined | null | false> | T | undefined | null | false): Promise<T> {
  const deadline = Date.now() + DEADLINE
  for (;;) {
    const value = await get()
    if (value !== undefined && value !== null && value !== false) return value
    if (Date.now() > deadline) throw new Error(`still waiting for: ${what}`)
    await sleep(10)
  }
}

export async function createApp (t: Test, options: BackgroundTasksOptions, logger: { level: string, stream?: { write (line: string): void } } = { level: 'silent' }): Promise<FastifyInstance> {
  const app = Fastify({ logger, forceCloseConnections: true }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks, options)
  return app
}

export function conformance (t: Test, { options, durable }: Conformance): void {
  /** An application with some definitions. */
  async function start (t: Test, tasks: BackgroundTasksOptions['tasks'], more: BackgroundTasksOptions = {}): Promise<FastifyInstance> {
    return createApp(t, { ...await options(), ...more, tasks: tasks! })
  }

  const settledInfo = (app: FastifyInstance, id: string) => until(`the end of ${id}`, async () => {
    const info = await app.backgroundTasks.find(id)
    return info !== null && ['completed', 'failed', 'cancelled'].includes(info.state) && info
  }) as Promise<TaskInfo>

  t.test('a task runs with a copy of its payload, and its result can be found', async t => {
    const seen: unknown[] = []
    const sum = defineTask('sum', async ({ numbers }: { numbers: number[] }) => {
      seen.push(numbers)
      return { sum: numbers.reduce((a, b) => a + b) }
    })
    const app = await start(t, [sum])
    const numbers = [1, 2, 3]
    app.post('/', async (request, reply) => {
      const task = request.backgroundTasks.add(sum, { numbers })
      const { id } = task
      numbers.push(1_000)
      reply.code(202)
      return { id }
    })
    const response = await app.inject({ method: 'POST', url: '/' })
    t.equal(response.statusCode, 202)
    const { id } = response.json<{ id: string }>()
    t.match(await settledInfo(app, id), { id, name: 'sum', state: 'completed', attempts: 1, result: { sum: 6 }, error: undefined })
    t.same(seen, [[1, 2, 3]])
    t.not(seen[0], numbers)
  })

  t.test('the context: id, name, attempt, request id, progress; each attempt has a new copy of the payload', async t => {
    const seen: Array<{ payload: unknown, ctx: object }> = []
    const gate = { open: false }
    const task = defineTask('context', async (payload: { list: number[] }, ctx: TaskContext) => {
      seen.push({ payload: { list: [...payload.list] }, ctx: { id: ctx.id, name: ctx.name, attempt: ctx.attempt, requestId: ctx.requestId } })
      payload.list.push(0)
      ctx.progress({ part: ctx.attempt })
      if (ctx.attempt === 1) throw new Error('boom')
      await until('the gate', () => gate.open)
    }, { attempts: 3 })
    const app = await start(t, [task])
    app.get('/', { }, async request => ({ id: request.backgroundTasks.add({ name: 'a name' }, task, { list: [1] }).id, requestId: request.id }))
    const { id, requestId } = (await app.inject('/')).json<{ id: string, requestId: string }>()
    const info = await until('progress', async () => {
      const info = await app.backgroundTasks.find(id)
      return (info?.progress as { part?: number } | undefined)?.part === 2 && info
    })
    t.match(info, { id, name: 'a name', state: 'running', attempts: 2, result: undefined })
    gate.open = true
    t.match(await settledInfo(app, id), { state: 'completed', attempts: 2, progress: { part: 2 } })
    t.same(seen, [1, 2].map(attempt => ({ payload: { list: [1] }, ctx: { id, name: 'a name', attempt, requestId } })))
  })

  t.test('what the application adds has no request id', async t => {
    const seen: unknown[] = []
    const task = defineTask('app', async (payload: undefined, ctx: TaskContext) => { seen.push(payload, ctx.requestId) })
    const app = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add(task)
    await app.backgroundTasks.flush()
    t.equal(await handle.settled(), 'completed')
    t.same(seen, [undefined, null])
  })

  t.test('a payload may be anything that is JSON', async t => {
    const seen: unknown[] = []
    const task = defineTask('any', async (payload: unknown) => { seen.push(payload) })
    const app = await start(t, [task])
    const payloads = [null, false, 0, '', 'ä\u2028"\\', [], {}, { __proto: 1, deep: [[{ a: null }]] }]
    await app.ready()
    for (const payload of payloads) await app.backgroundTasks.add(task, payload).settled()
    t.same(seen, payloads)
  })

  t.test('attempts and backoff', async t => {
    const times: number[] = []
    const task = defineTask('flaky', async () => {
      times.push(performance.now())
      throw new Error(`boom ${times.length}`)
    }, { attempts: 3, backoff: { type: 'exponential', delay: 100 } })
    const app = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add(task)
    const { id } = handle
    t.equal(await handle.settled(), 'failed')
    t.equal(times.length, 3)
    t.ok(times[1]! - times[0]! >= 95, `${times[1]! - times[0]!} ms`)
    t.ok(times[2]! - times[1]! >= 190, `${times[2]! - times[1]!} ms`)
    t.match(await settledInfo(app, id), { state: 'failed', attempts: 3, error: { message: 'boom 3' } })
  })

  t.test('an UnrecoverableError ends the attempts', async t => {
    let attempts = 0
    const task = defineTask('hopeless', async () => {
      attempts++
      throw new UnrecoverableError('no such address')
    }, { attempts: 5 })
    const app = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add(task)
    const { id } = handle
    t.equal(await handle.settled(), 'failed')
    t.equal(attempts, 1)
    t.match(await settledInfo(app, id), { error: { message: 'no such address' } })
  })

  t.test('what a task throws need not be an error', async t => {
    const task = defineTask('odd', async (payload: string) => {
      throw payload === 'nothing' ? undefined : payload
    })
    const app = await start(t, [task])
    await app.ready()
    t.equal(await app.backgroundTasks.add(task, 'a string').settled(), 'failed')
    t.equal(await app.backgroundTasks.add(task, 'nothing').settled(), 'failed')
  })

  t.test('results and errors that a store may have its difficulties with', async t => {
    const circle: { self?: unknown } = {}
    circle.self = circle
    let runs = 0
    const circular = defineTask('circular', async () => {
      runs++
      return circle
    }, { attempts: 3 })
    const odd = defineTask('odd', async () => ['a\0b', '\\u0000', 'a\ud83db', '\\ud83d'])
    const failing = defineTask('failing', async ({ name, message }: { name: string, message: string }) => {
      runs++
      throw Object.assign(new Error(message), { name })
    }, { attempts: 2, backoff: { type: 'fixed', delay: 1.5 } })
    const app = await start(t, [circular, odd, failing])
    await app.ready()
    const endOf = async (handle: TaskHandle) => {
      const { id } = handle
      await app.backgroundTasks.flush()
      return settledInfo(app, id)
    }
    t.match(await endOf(app.backgroundTasks.add(circular)), { state: 'completed' })
    t.equal(runs, 1, 'what it returns is no reason to run it again')
    t.match(await endOf(app.backgroundTasks.add({ delay: 0.5 }, odd)), { state: 'completed', result: [/^a.b$/, '\\u0000', /^a.b$/, '\\ud83d'] })
    for (const [name, message] of [['WaitingError', 'x'], ['DelayedError', 'x'], ['Error', 'bullmq:rateLimitExceeded'], ['Error', 'a\0b'], ['Error', 'a\ud83db']] as const) {
      runs = 0
      t.match(await endOf(app.backgroundTasks.add(failing, { name, message })), { state: 'failed', attempts: 2 }, JSON.stringify(message))
      t.equal(runs, 2)
    }
  })

  t.test('a task that adds one which is not known here fails', async t => {
    const stranger = defineTask('stranger', async () => {})
    const task = defineTask('adds', async () => { app.backgroundTasks.add(stranger) })
    const app: FastifyInstance = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add(task)
    const { id } = handle
    t.equal(await handle.settled(), 'failed')
    t.match(await settledInfo(app, id), { error: { message: /'stranger' is not known here/ } })
  })

  t.test('a timeout aborts the signal, and counts as an attempt', async t => {
    const reasons: unknown[] = []
    const task = defineTask('slow', async (_payload: undefined, ctx: TaskContext) => {
      await once(ctx.signal, 'abort')
      reasons.push((ctx.signal.reason as { code: string }).code)
    }, { attempts: 2, timeout: 50 })
    const app = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add({ timeout: 30 }, task)
    const { id } = handle
    t.equal(await handle.settled(), 'failed')
    t.match(await settledInfo(app, id), { attempts: 2, error: { message: /timeout of 30 ms/ } })
    t.same(reasons, ['FST_BGT_TIMEOUT', 'FST_BGT_TIMEOUT'])
  })

  t.test('delay', async t => {
    let ran = 0
    const task = defineTask('later', async () => { ran = performance.now() })
    const app = await start(t, [task])
    await app.ready()
    const begin = performance.now()
    const handle = app.backgroundTasks.add({ delay: 300 }, task)
    const { id } = handle
    await app.backgroundTasks.flush()
    t.match(await app.backgroundTasks.find(id), { state: 'pending', attempts: 0 })
    t.equal(await handle.settled(), 'completed')
    t.ok(ran - begin >= 295, `${ran - begin} ms`)
  })

  t.test('dedupe: while one is not settled, another one is dropped', async t => {
    const gate = { open: false }
    let ran = 0
    const task = defineTask('once', async () => {
      ran++
      await until('the gate', () => gate.open)
    })
    const app = await start(t, [task])
    app.get('/', async request => {
      const { id } = request.backgroundTasks.add({ dedupe: 'report' }, task)
      return { id }
    })
    const first = (await app.inject('/')).json<{ id: string }>()
    await until('the first', () => ran === 1)
    const second = (await app.inject('/')).json<{ id: string }>()
    await until('the second', async () => (await app.backgroundTasks.find(second.id))?.state === 'dropped')
    gate.open = true
    t.match(await settledInfo(app, first.id), { state: 'completed' })
    const third = (await app.inject('/')).json<{ id: string }>()
    t.match(await settledInfo(app, third.id), { state: 'completed' })
    t.equal(ran, 2)
  })

  t.test('cancel before it begins, delayed or waiting; its dedupe id is free again', async t => {
    let ran = 0
    const gate = { open: false, busy: 0 }
    const task = defineTask('victim', async () => { ran++ })
    const busy = defineTask('busy', async () => {
      gate.busy++
      await until('the gate', () => gate.open)
    })
    const app = await start(t, [task, busy], { concurrency: 1, ...durable ? { worker: { concurrency: 1 } } : {} })
    await app.ready()
    const blocker = app.backgroundTasks.add(busy)
    await until('the worker is busy', () => gate.busy === 1)
    const delayed = app.backgroundTasks.add({ delay: 60_000, dedupe: 'a' }, task)
    const waiting = app.backgroundTasks.add(task)
    await app.backgroundTasks.flush()
    t.equal(await delayed.cancel(), true)
    t.equal(await waiting.cancel(), true)
    t.equal(await waiting.settled(), 'cancelled')
    t.equal(await delayed.settled(), 'cancelled')
    t.equal(await delayed.cancel(), false, 'once')
    gate.open = true
    t.equal(await blocker.settled(), 'completed')
    t.equal(await app.backgroundTasks.add({ dedupe: 'a' }, task).settled(), 'completed')
    t.equal(ran, 1)
    t.equal(await blocker.cancel(), false, 'too late')
  })

  t.test('cancel while it runs aborts its signal; there is no further attempt', async t => {
    const codes: string[] = []
    let running = 0
    const task = defineTask('endless', async (_payload: undefined, ctx: TaskContext) => {
      running++
      await once(ctx.signal, 'abort')
      codes.push((ctx.signal.reason as { code: string }).code)
      throw ctx.signal.reason
    }, { attempts: 3 })
    const app = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add(task)
    const { id } = handle
    await until('it runs', () => running === 1)
    t.equal(await handle.cancel(), true)
    t.equal(await handle.settled(), 'cancelled')
    t.match(await settledInfo(app, id), { state: 'cancelled', error: undefined })
    t.same(codes, ['FST_BGT_CANCELLED'])
    t.equal(running, 1)
  })

  t.test('runOn: a request that fails stores nothing but what is for failures', async t => {
    const ran: string[] = []
    const task = defineTask('by outcome', async (name: string) => { ran.push(name) })
    const app = await start(t, [task])
    app.get('/:end', async (request, reply) => {
      const { end } = request.params as { end: string }
      for (const runOn of ['success', 'failure', 'always'] as const) request.backgroundTasks.add({ runOn }, task, `${end} ${runOn}`)
      request.backgroundTasks.add({ runOn: ({ statusCode }) => statusCode === 404 }, task, `${end} 404`)
      if (end === 'throw') throw new Error('boom')
      if (end === '404') reply.code(404)
      return end
    })
    for (const end of ['throw', '404', 'ok']) await app.inject(`/${end}`)
    await until('all', () => ran.length >= 7)
    await app.backgroundTasks.idle()
    t.same(ran.sort(), ['404 404', '404 always', '404 success', 'ok always', 'ok success', 'throw always', 'throw failure'])
  })

  t.test('key: within a request the last one wins', async t => {
    const ran: number[] = []
    const task = defineTask('keyed', async (n: number) => { ran.push(n) })
    const app = await start(t, [task])
    app.get('/', async request => {
      const first = request.backgroundTasks.add({ key: 'k' }, task, 1)
      request.backgroundTasks.add({ key: 'k' }, task, 2)
      return { state: first.state }
    })
    t.same((await app.inject('/')).json(), { state: 'replaced' })
    await until('the last', () => ran.length === 1)
    t.same(ran, [2])
  })

  t.test('flush stores before the reply; a failure after it does not call the task back', async t => {
    const ran: number[] = []
    const task = defineTask('flushed', async (n: number) => { ran.push(n) })
    const app = await start(t, [task])
    app.get('/', async request => {
      const { id } = request.backgroundTasks.add({ runOn: 'always' }, task, 1)
      await request.backgroundTasks.flush()
      if (durable) t.ok(await app.backgroundTasks.find(id))
      throw new Error('boom')
    })
    t.equal((await app.inject('/')).statusCode, 500)
    await until('it ran', () => ran.length === 1)
    t.same(ran, [1])
  })

  t.test('tasks of many requests all run, each once', async t => {
    const ran = new Map<number, number>()
    const task = defineTask('many', async (n: number) => { ran.set(n, (ran.get(n) ?? 0) + 1) })
    const app = await start(t, [task])
    app.get('/:n', async request => {
      const n = Number((request.params as { n: string }).n)
      for (let i = 0; i < 5; i++) request.backgroundTasks.add(task, n * 5 + i)
      return 'x'
    })
    const responses = await Promise.all(Array.from({ length: 40 }, (_, n) => app.inject(`/${n}`)))
    t.ok(responses.every(({ statusCode }) => statusCode === 200))
    await until('all', () => ran.size === 200)
    t.ok([...ran.values()].every(times => times === 1))
  })

  t.test('each attempt has a DI scope of its own, with a collector in it', async t => {
    const scopes = new Set<unknown>()
    const handles: Handle[] = []
    const seen: unknown[] = []
    const child = defineTask('child', async (n: number) => { seen.push(n) })
    const task = defineTask('di', async (_payload: undefined, ctx: TaskContext) => {
      const scope = ctx.diScope as unknown as { resolve (name: string): any }
      scopes.add(scope)
      const handle = scope.resolve('handle') as Handle
      handles.push(handle)
      handle.use()
      scope.resolve('backgroundTasks').add(child, ctx.attempt)
      if (ctx.attempt === 1) throw new Error('boom')
    }, { attempts: 2 })
    const app = Fastify({ logger: { level: 'silent' }, forceCloseConnections: true }) as unknown as FastifyInstance
    t.teardown(() => app.close())
    const container = createContainer<any>()
    container.register('handle', asClass(Handle, { lifetime: Lifetime.SCOPED, dispose: handle => handle.close() }))
    await app.register(fastifyAwilixPlugin, { container })
    await app.register(backgroundTasks, { ...await options(), tasks: [task, child] })
    app.get('/', async request => request.backgroundTasks.add(task).id)
    const id = (await app.inject('/')).body
    t.match(await settledInfo(app, id), { state: 'completed', attempts: 2 })
    await until('the children', () => seen.length === 2)
    t.same(seen.sort(), [1, 2])
    t.equal(scopes.size, 2)
    await until('disposed', () => handles.every(({ closed }) => closed === 1))
  })

  t.test('close waits for what runs', async t => {
    let ended = false
    let running = 0
    const task = defineTask('drained', async () => {
      running++
      await sleep(100)
      ended = true
    })
    const app = await start(t, [task])
    await app.ready()
    const handle = app.backgroundTasks.add(task)
    await until('it runs', () => running === 1)
    await app.close()
    t.ok(ended)
    t.ok(['completed', 'stored'].includes(await handle.settled()), 'settled() ends with the application')
    t.throws(() => app.backgroundTasks.add(task), { code: 'FST_BGT_CLOSED' })
  })

  t.test('find knows nothing of an id that is unknown', async t => {
    const app = await start(t, [])
    await app.ready()
    for (const id of ['unknown', 'wait', 'meta', '', '../x', '00000000-0000-4000-8000-000000000000']) {
      t.equal(await app.backgroundTasks.find(id), null, id)
    }
  })

  if (!durable) return

  t.test('a 2xx means stored: before the client has its answer, the task can be found from another process', async t => {
    const task = defineTask('stored', async (_payload: { n: number }) => {})
    const shared = { ...await options(), worker: false as const }
    const web = await createApp(t, { ...shared, tasks: [task] })
    const other = await createApp(t, { ...await sameAs(shared), worker: false, tasks: [] })
    await other.ready()
    web.get('/', async request => ({ id: request.backgroundTasks.add(task, { n: 1 }).id }))
    for (let i = 0; i < 5; i++) {
      const { id } = (await web.inject('/')).json<{ id: string }>()
      t.match(await other.backgroundTasks.find(id), { id, name: 'stored', state: 'pending', attempts: 0 })
    }
  })

  t.test('what an instrumentation sends along comes with every attempt', async t => {
    const carrier = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'x-a key': 'ä "value"' }
    setPropagation({ inject: () => carrier, refused: () => {}, extract: (_carrier, fn) => fn(), run: (_task, fn) => fn() })
    t.teardown(() => setPropagation(null))
    const task = defineTask('traced', async (_payload: undefined, ctx: TaskContext) => { if (ctx.attempt === 1) throw new Error('boom') }, { attempts: 2 })
    const plain = defineTask('untraced', async () => {})
    const seen: unknown[] = []
    const onStart = (message: unknown) => {
      const { name, attempt, carrier } = message as RunMessage
      seen.push({ name, attempt, carrier })
    }
    runChannel.start.subscribe(onStart)
    t.teardown(() => runChannel.start.unsubscribe(onStart))
    const shared = await options()
    const web = await createApp(t, { ...shared, worker: false, tasks: [task, plain] })
    await web.ready()
    const traced = web.backgroundTasks.add(task)
    await web.backgroundTasks.flush()
    setPropagation(null)
    const worker = await createApp(t, { ...await sameAs(shared), tasks: [task, plain] })
    await worker.ready()
    t.equal(await traced.settled(), 'completed')
    t.equal(await web.backgroundTasks.add(plain).settled(), 'completed')
    t.same(seen, [
      { name: 'traced', attempt: 1, carrier },
      { name: 'traced', attempt: 2, carrier },
      { name: 'untraced', attempt: 1, carrier: null }
    ])
  })

  t.test('a task that this worker does not know is left for one that does', async t => {
    const ran: string[] = []
    const task = defineTask('known to one', async (_payload: undefined, ctx: TaskContext) => { ran.push(`attempt ${ctx.attempt}`) })
    const shared = await options()
    const web = await createApp(t, { ...shared, worker: false, tasks: [task] })
    const log: Array<{ msg: string, err?: { code: string } }> = []
    const ignorant = await createApp(t, { ...await sameAs(shared), tasks: [] }, { level: 'warn', stream: { write: line => { log.push(JSON.parse(line)) } } })
    await Promise.all([web.ready(), ignorant.ready()])
    const handle = web.backgroundTasks.add(task)
    await until('it is passed on', () => log.find(({ msg }) => msg.endsWith('left to another worker')))
    t.match(log, [{ err: { code: 'FST_BGT_UNKNOWN_TASK' } }])
    t.match(await until('it waits', async () => {
      const info = await web.backgroundTasks.find(handle.id)
      return info?.state === 'pending' && info
    }), { attempts: 0 })
    await ignorant.close()
    const expert = await createApp(t, { ...await sameAs(shared), tasks: [task] })
    await expert.ready()
    t.equal(await handle.settled(), 'completed')
    t.same(ran, ['attempt 1'])
  })

  t.test('a worker that closes gives back what has not ended, and it is no attempt', async t => {
    const seen: string[] = []
    const app = { closing: true }
    const task = defineTask('given back', async (_payload: undefined, ctx: TaskContext) => {
      seen.push(`attempt ${ctx.attempt}`)
      if (app.closing) await once(ctx.signal, 'abort').then(() => { throw ctx.signal.reason })
    })
    const deaf = defineTask('deaf', async (_payload: undefined, ctx: TaskContext) => {
      seen.push(`deaf ${ctx.attempt}`)
      if (app.closing) await new Promise(() => {})
    })
    const shared = await options()
    const web = await createApp(t, { ...shared, worker: false, tasks: [task, deaf] })
    const first = await createApp(t, { ...await sameAs(shared), closeTimeout: 100, tasks: [task, deaf] })
    await Promise.all([web.ready(), first.ready()])
    const handles = [web.backgroundTasks.add(task), web.backgroundTasks.add(deaf)]
    await until('both run', () => seen.length === 2)
    await first.close()
    for (const handle of handles) t.match(await web.backgroundTasks.find(handle.id), { state: 'pending', attempts: 0 })
    app.closing = false
    const second = await createApp(t, { ...await sameAs(shared), tasks: [task, deaf] })
    await second.ready()
    for (const handle of handles) t.equal(await handle.settled(), 'completed')
    t.same(seen.sort(), ['attempt 1', 'attempt 1', 'deaf 1', 'deaf 1'])
  })

  t.test('delay and dedupe hold across processes and restarts', async t => {
    const ran: number[] = []
    const task = defineTask('outlives', async (n: number) => { ran.push(n) })
    const shared = await options()
    const first = await createApp(t, { ...shared, tasks: [task] })
    await first.ready()
    const begin = Date.now()
    const handle = first.backgroundTasks.add({ delay: 1_000, dedupe: 'one' }, task, 1)
    await first.backgroundTasks.flush()
    await first.close()
    const second = await createApp(t, { ...await sameAs(shared), tasks: [task] })
    await second.ready()
    const other = second.backgroundTasks.add({ dedupe: 'one' }, task, 2)
    t.equal(await other.settled(), 'dropped')
    t.match(await settledInfo(second, handle.id), { state: 'completed' })
    t.ok(Date.now() - begin >= 995)
    t.same(ran, [1])
  })

  t.test('what another process has stored is listed, as it is, and what has failed can be run again', async t => {
    const gate = { open: false, broken: true }
    const hang = defineTask('hang', async (_payload: undefined, ctx) => {
      ctx.progress(40)
      await until('the gate', () => gate.open)
    })
    const fail = defineTask('fail', async ({ n }: { n: number }) => {
      if (gate.broken) throw new Error(`number ${n}`)
      return n
    })
    const again = defineTask('again', async () => { throw new Error('not yet') }, { attempts: 3, backoff: 600_000 })
    const tasks = [hang, fail, again]
    const shared = await options()
    const web = await createApp(t, { ...shared, worker: false, tasks })
    await web.ready()
    const backend = shared.backend!
    t.same(await backend.list!(10), { counts: { running: 0, waiting: 0, delayed: 0, failed: 0 }, tasks: [] })
    const others = await sameAs(shared)
    const worker = await createApp(t, { ...others, tasks, worker: { concurrency: 1 } })
    t.teardown(() => { gate.open = true })
    const failing = web.backgroundTasks.add({ name: 'a label' }, fail, { n: 1 })
    const retrying = web.backgroundTasks.add(again)
    await web.backgroundTasks.flush()
    await worker.ready()
    t.equal(await failing.settled(), 'failed')
    await until('an attempt', async () => (await web.backgroundTasks.find(retrying.id))?.attempts === 1)
    const begin = Date.now()
    const delayed = web.backgroundTasks.add({ delay: 3_600_000 }, fail, { n: 2 })
    const running = web.backgroundTasks.add(hang)
    await web.backgroundTasks.flush()
    await until('it runs', async () => (await web.backgroundTasks.find(running.id))?.progress === 40)
    const waiting = web.backgroundTasks.add(hang)
    await web.backgroundTasks.flush()

    const { counts, tasks: listed } = await backend.list!(10)
    t.same(counts, { running: 1, waiting: 1, delayed: 2, failed: 1 })
    const found = Object.fromEntries(listed.map(task => [task.id, task]))
    t.equal(listed.length, 5)
    t.match(found[running.id], { state: 'running', name: 'hang', label: 'hang', payload: null, requestId: null, attempt: 1, attempts: 1, due: null, progress: 40, error: undefined })
    t.match(found[waiting.id], { state: 'waiting', attempt: 0, due: null, progress: undefined })
    t.ok(Math.abs(found[waiting.id]!.since! - Date.now()) < 60_000)
    t.match(found[delayed.id], { state: 'delayed', attempt: 0, payload: '{"n":2}' })
    t.ok(found[delayed.id]!.due! >= begin + 3_600_000 && found[delayed.id]!.due! < begin + 3_660_000)
    t.match(found[retrying.id], { state: 'retrying', attempt: 1, attempts: 3, error: { message: 'not yet' } })
    t.equal((await web.backgroundTasks.find(retrying.id))!.error, undefined, 'it has not failed')
    t.ok(found[retrying.id]!.due! > begin + 500_000 && found[retrying.id]!.due! < begin + 660_000, String(found[retrying.id]!.due! - begin))
    t.match(found[failing.id], { state: 'failed', name: 'fail', label: 'a label', payload: '{"n":1}', attempt: 1, error: { message: 'number 1' } })
    t.match(found[failing.id]!.error!.stack, 'conformance.ts')
    t.ok(Math.abs(found[failing.id]!.since! - begin) < 60_000)
    t.same((await backend.list!(1)).tasks.map(({ state }) => state), ['running', 'waiting', 'retrying', 'failed'], 'so many of each')

    t.equal(await backend.retry!(waiting.id), false, 'it has not failed')
    t.equal(await others.backend!.retry!(delayed.id), false, 'nor has this')
    t.equal(await backend.retry!('00000000-0000-4000-8000-000000000000'), false)
    gate.broken = false
    t.equal(await backend.retry!(failing.id), true)
    gate.open = true
    await until('it has run again', async () => (await web.backgroundTasks.find(failing.id))?.state === 'completed')
    t.match(await web.backgroundTasks.find(failing.id), { attempts: 1, result: 1, error: undefined })
  })

  t.test('cancel reaches what another process has stored, but not what runs there', async t => {
    let running = 0
    const gate = { open: false }
    const task = defineTask('elsewhere', async () => {
      running++
      await until('the gate', () => gate.open)
    })
    const shared = await options()
    const web = await createApp(t, { ...shared, worker: false, tasks: [task] })
    await web.ready()
    const waiting = web.backgroundTasks.add(task)
    await web.backgroundTasks.flush()
    t.equal(await waiting.cancel(), true)
    const worker = await createApp(t, { ...await sameAs(shared), tasks: [task] })
    await worker.ready()
    const handle = web.backgroundTasks.add(task)
    await until('it runs', () => running === 1)
    t.equal(await handle.cancel(), false)
    gate.open = true
    t.equal(await handle.settled(), 'completed')
    t.equal(running, 1)
  })
}

/** The factory of the backend that some options were made by makes another one for the same place. */
const again = new WeakMap<object, () => BackgroundTasksOptions>()

export function repeatable (make: () => BackgroundTasksOptions): BackgroundTasksOptions {
  const options = make()
  again.set(options.backend as object, make)
  return options
}

function sameAs (options: BackgroundTasksOptions): Promise<BackgroundTasksOptions> {
  return Promise.resolve((again.get(options.backend as object) as () => BackgroundTasksOptions)())
}
