import Fastify, { type FastifyInstance } from 'fastify'
import { fastifyAwilixPlugin } from '@fastify/awilix'
import { asClass, createContainer, Lifetime } from 'awilix'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import type { Test } from 'tap'
import backgroundTasks, { defineTask, UnrecoverableError, type BackgroundTasksOptions, type TaskContext, type TaskHandle, type TaskInfo, type TransactionClient } from '../../index'
import { runChannel } from '../../lib/observe/channels'
import { setPropagation } from '../../lib/observe/propagation'
import { Handle } from './awilix'
import { until } from './until'
import type { RunMessage } from '../../types/messages'

/*
 * The behaviour of defined tasks, wherever they are kept: one suite for all backends. Each test gets plugin options from a factory;
 * two applications with options of one call share what they keep.
 */

/** An open transaction of the user's. */
export interface OpenTransaction {
  client: TransactionClient
  end (how: 'COMMIT' | 'ROLLBACK'): unknown
}

export interface Conformance {
  /** Options with a new, empty place for tasks, but without the definitions. */
  options: () => Promise<BackgroundTasksOptions>
  /** Whether the tasks outlive the process. */
  durable: boolean
  /** Begins a transaction in the place of some options, on a connection of the test's own; absent where the store has none. */
  begin?: (t: Test, options: BackgroundTasksOptions) => Promise<OpenTransaction>
  /** Features that the store lacks, each with the reason. Its cases check that this is said, by an error or by what is returned. */
  lacks?: {
    /** The option `dedupe`: FST_BGT_UNSUPPORTED. */
    dedupe?: string
    /** To cancel what waits in it: `false`. */
    cancelWaiting?: string
    /** The option `schedules`: FST_BGT_UNSUPPORTED. */
    schedules?: string
    /** To list what it has, and to have what has failed run again: there are no such functions. */
    list?: string
  }
}

export async function createApp (t: Test, options: BackgroundTasksOptions, logger: { level: string, stream?: { write (line: string): void } } = { level: 'silent' }): Promise<FastifyInstance> {
  const app = Fastify({ logger, forceCloseConnections: true }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(backgroundTasks, options)
  return app
}

export function conformance (t: Test, { options, durable, begin, lacks = {} }: Conformance): void {
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

  t.test('progress: the last value is there when the task has ended, however fast they come; what comes later does not count', async t => {
    const late: Array<() => void> = []
    const task = defineTask('progress', async (_payload: undefined, ctx: TaskContext) => {
      for (let part = 0; part < 1_000; part++) ctx.progress({ part, text: 'a\0b\ud83d' })
      late.push(() => ctx.progress('late'))
      if (ctx.attempt === 1) throw new Error('boom')
    }, { attempts: 2 })
    const app = await start(t, [task])
    await app.ready()
    const handles = Array.from({ length: 5 }, () => app.backgroundTasks.add(task))
    const ids = handles.map(({ id }) => id)
    await app.backgroundTasks.flush()
    for (const id of ids) t.match(await settledInfo(app, id), { state: 'completed', progress: { part: 999, text: /^a.b.$/ } })
    for (const add of late) add()
    await app.backgroundTasks.flush()
    for (const id of ids) t.match(await app.backgroundTasks.find(id), { state: 'completed', progress: { part: 999 } })
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

  t.test('a result of null is null, and none is undefined', async t => {
    const values: Record<string, unknown> = { null: null, nothing: undefined, false: false, zero: 0, empty: '', list: [null] }
    const task = defineTask('returns', async (name: string) => values[name])
    const app = await start(t, [task])
    await app.ready()
    const resultOf = async (name: string) => {
      const handle = app.backgroundTasks.add(task, name)
      const { id } = handle
      await app.backgroundTasks.flush()
      return (await settledInfo(app, id)).result
    }
    for (const [name, value] of Object.entries(values)) t.strictSame(await resultOf(name), value, name)
  })

  if (durable) {
    t.test('a result that is too large is left out, and the task has completed', async t => {
      let runs = 0
      const task = defineTask('large', async () => {
        runs++
        return 'x'.repeat(2 ** 24)
      }, { attempts: 2 })
      const log: Array<{ msg: string }> = []
      const app = await createApp(t, { ...await options(), tasks: [task] }, { level: 'warn', stream: { write: line => { log.push(JSON.parse(line)) } } })
      await app.ready()
      const handle = app.backgroundTasks.add(task)
      t.equal(await handle.settled(), 'completed')
      t.match(await app.backgroundTasks.find(handle.id), { result: undefined, attempts: 1 })
      t.equal(runs, 1)
      t.match(log, [{ msg: /the result of a background task could not be stored/ }])
    })
  }

  t.test('the code of an error is kept', async t => {
    const task = defineTask('coded', async (code: string | number | boolean) => {
      throw Object.assign(new Error('boom'), { code: code === false ? undefined : code })
    })
    const getter = defineTask('getter', async () => {
      throw Object.defineProperty(new Error('boom'), 'code', { get () { throw new Error('a trap') } })
    })
    const app = await start(t, [task, getter])
    await app.ready()
    const errorOf = async (handle: TaskHandle) => {
      const { id } = handle
      await app.backgroundTasks.flush()
      return (await settledInfo(app, id)).error as Error & { code?: unknown }
    }
    for (const code of ['ECONNREFUSED', 'a "code"\nof two lines', 42, false]) {
      const error = await errorOf(app.backgroundTasks.add(task, code))
      t.equal(error.message, 'boom')
      t.equal(error.code, code === false ? undefined : code)
      t.notMatch(error.stack, 'code: ')
      t.match(error.stack!.split('\n').at(-1), /^ +at /, 'its stack is what it was')
    }
    t.equal((await errorOf(app.backgroundTasks.add(getter))).message, 'boom')
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

  t.test('a task adds further ones, each attempt anew, which run with the id of the request', async t => {
    const seen: unknown[] = []
    const child = defineTask('child', async (n: number, ctx: TaskContext) => {
      seen.push([n, ctx.requestId])
      if (n === 2) ctx.add(child, 3)
    })
    const parent = defineTask('parent', async (_payload: undefined, ctx: TaskContext) => {
      ctx.add(child, ctx.attempt)
      if (ctx.attempt === 1) throw new Error('boom')
    }, { attempts: 2 })
    const app = await start(t, [parent, child])
    app.get('/', async request => ({ id: request.backgroundTasks.add(parent).id, requestId: request.id }))
    const { id, requestId } = (await app.inject('/')).json<{ id: string, requestId: string }>()
    t.match(await settledInfo(app, id), { state: 'completed', attempts: 2 })
    await until('the last one', () => seen.length === 3)
    t.same(seen.sort(), [1, 2, 3].map(n => [n, requestId]))
  })

  if (durable && lacks.dedupe === undefined) {
    t.test('what a task has added is stored when the task has completed, in another process too; dedupe holds across attempts', async t => {
      const child = defineTask('child', async () => {})
      const parent = defineTask('parent', async (_payload: undefined, ctx: TaskContext) => {
        const { id } = ctx.add({ dedupe: ctx.id, delay: 3_600_000 }, child)
        if (ctx.attempt === 1) throw new Error('boom')
        ctx.add({ delay: 3_600_000, name: 'second' }, child)
        return id
      }, { attempts: 2 })
      const shared = await options()
      const web = await createApp(t, { ...shared, worker: false, tasks: [parent, child] })
      const worker = await createApp(t, { ...await sameAs(shared), tasks: [parent, child] })
      await Promise.all([web.ready(), worker.ready()])
      const handle = web.backgroundTasks.add(parent)
      const { id } = handle
      await web.backgroundTasks.flush()
      const { result } = await settledInfo(web, id)
      t.equal(await web.backgroundTasks.find(result as string), null, 'the second attempt has added none')
      t.match(worker.backgroundTasks.stats(), { dropped: 1, stored: 3 }, 'two children, and the first attempt')
    })
  }

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

  t.test('a delay of years does not hold up what is due', async t => {
    const task = defineTask('years', async (name: string) => name)
    const app = await start(t, [task])
    await app.ready()
    const year = 365 * 86_400_000
    const later = [30 * 86_400_000, year, 10 * year].map(delay => app.backgroundTasks.add({ delay }, task, 'later'))
    await app.backgroundTasks.flush()
    t.equal(await app.backgroundTasks.add({ delay: 100 }, task, 'now').settled(), 'completed')
    for (const handle of later) {
      const { id } = handle
      t.match(await app.backgroundTasks.find(id), { state: 'pending', attempts: 0 })
      t.equal(await handle.cancel(), true)
    }
  })

  t.test(lacks.schedules === undefined ? 'a schedule runs when it is due, and when it is told to' : `no schedules: ${lacks.schedules}`, async t => {
    const runs: unknown[] = []
    const task = defineTask('recurs', async (payload: { days: number }, ctx) => { runs.push([{ ...payload }, ctx.requestId]) })
    const registered = start(t, [task], { schedules: { soon: { task, every: 1_000, payload: { days: 1 } }, never: { task, cron: '0 0 29 2 *', payload: { days: 2 } } } })
    if (lacks.schedules !== undefined) return t.rejects(registered, { code: 'FST_BGT_UNSUPPORTED', message: new RegExp(lacks.schedules) })
    const app = await registered
    await app.ready()
    t.match((await app.backgroundTasks.schedules())[1], { id: 'never', task: 'recurs', cron: '0 0 29 2 *', next: Date, last: null, lastId: null, skipped: 0 })
    const soon = await until('it was due', async () => {
      const [soon] = await app.backgroundTasks.schedules()
      return soon!.lastId !== null && soon!
    })
    t.match(soon, { id: 'soon', task: 'recurs', cron: null, timezone: null, every: 1_000 })
    t.equal(soon!.last!.getTime() % 1_000, 0)
    t.match(await settledInfo(app, soon!.lastId!), { name: 'recurs', state: 'completed' })
    const handle = await app.backgroundTasks.runSchedule('never')
    t.match(await settledInfo(app, handle!.id), { name: 'recurs', state: 'completed' })
    t.same(runs[0], [{ days: 1 }, null])
    t.ok(runs.some(run => (run as [{ days: number }])[0].days === 2))
  })

  if (lacks.dedupe !== undefined) {
    t.test(`no dedupe: ${lacks.dedupe}`, async t => {
      const seen: unknown[] = []
      const task = defineTask('once', async (text: string) => { seen.push(text) })
      const local = defineTask('here', async (text: string) => { seen.push(text) }, { local: true })
      const app = await start(t, [task, local])
      app.get('/', async request => request.backgroundTasks.add({ dedupe: 'report' }, task, 'x').id)
      const response = await app.inject('/')
      t.match(response.json(), { statusCode: 500, code: 'FST_BGT_UNSUPPORTED' })
      t.match(response.json<{ message: string }>().message, lacks.dedupe)
      t.throws(() => app.backgroundTasks.add({ dedupe: 'report' }, task, 'x'), { code: 'FST_BGT_UNSUPPORTED' })
      t.equal(await app.backgroundTasks.add({ dedupe: 'report' }, local, 'local').settled(), 'completed')
      t.same(seen, ['local'])
    })
  } else {
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
  }

  if (lacks.cancelWaiting !== undefined) {
    t.test(`no cancel of what waits in the store: ${lacks.cancelWaiting}`, async t => {
      const gate = { open: false, busy: 0 }
      let ran = 0
      const task = defineTask('waiting', async () => { ran++ })
      const busy = defineTask('busy', async () => {
        gate.busy++
        await until('the gate', () => gate.open)
      })
      const app = await start(t, [task, busy], { worker: { concurrency: 1 } })
      await app.ready()
      app.backgroundTasks.add(busy)
      await until('the worker is busy', () => gate.busy === 1)
      const waiting = app.backgroundTasks.add(task)
      await app.backgroundTasks.flush()
      t.equal(await waiting.cancel(), false)
      gate.open = true
      t.equal(await waiting.settled(), 'completed')
      t.equal(ran, 1)
      t.equal(await waiting.cancel(), false, 'too late')
    })
  } else {
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
  }

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

  if (begin === undefined) {
    t.test('no task in the transaction of a user', async t => {
      const task = defineTask('task', async () => {})
      const app = await start(t, [task])
      await app.ready()
      t.throws(() => app.backgroundTasks.addInTransaction({ query: async () => [] }, task), { code: durable ? 'FST_BGT_UNSUPPORTED' : 'FST_BGT_NOT_DURABLE', message: /after the commit$/ })
      t.match(app.backgroundTasks.stats(), { accepted: 0 })
    })
  } else {
    t.test('in the transaction of a user: run if it commits, in the order of add, and never if it does not', async t => {
      const ran: unknown[] = []
      const task = defineTask('task', async (n: number, { id, requestId }: TaskContext) => { ran.push([n, id, requestId]) })
      const given = await options()
      const app = await createApp(t, { ...given, tasks: [task], worker: { concurrency: 1 } })
      app.get<{ Querystring: { how: 'COMMIT' | 'ROLLBACK' } }>('/', async ({ backgroundTasks, query: { how } }) => {
        const { client, end } = await begin(t, given)
        const handles = [await backgroundTasks.addInTransaction(client, task, 1), await backgroundTasks.addInTransaction(client, { attempts: 2 }, task, 2)]
        const found = await Promise.all(handles.map(({ id }) => app.backgroundTasks.find(id)))
        await end(how)
        return { ids: handles.map(({ id }) => id), found }
      })
      const send = async (how: string) => (await app.inject({ url: '/', query: { how } })).json<{ ids: string[], found: unknown[] }>()
      const lost = await send('ROLLBACK')
      const kept = await send('COMMIT')
      t.same([...lost.found, ...kept.found], [null, null, null, null])
      for (const id of kept.ids) t.match(await settledInfo(app, id), { state: 'completed' })
      for (const id of lost.ids) t.equal(await app.backgroundTasks.find(id), null)
      t.match(ran, kept.ids.map((id, index) => [index + 1, id, /./]))
      t.match(app.backgroundTasks.stats(), { stored: 4, dropped: 0 })
    })

    t.test('in the transaction of a user: dedupe and delay are those of add', async t => {
      const task = defineTask('task', async () => {})
      const given = await options()
      const app = await createApp(t, { ...given, tasks: [task] })
      await app.ready()
      const waiting = app.backgroundTasks.add({ dedupe: 'one', delay: 3_600_000 }, task)
      await app.backgroundTasks.flush()
      const { client, end } = await begin(t, given)
      const dropped = await app.backgroundTasks.addInTransaction(client, { dedupe: 'one' }, task)
      const delayed = await app.backgroundTasks.addInTransaction(client, { dedupe: 'two', delay: 3_600_000 }, task)
      await end('COMMIT')
      t.equal(await dropped.settled(), 'dropped')
      t.match(await app.backgroundTasks.find(delayed.id), { state: 'pending' })
      t.equal(await app.backgroundTasks.add({ dedupe: 'two' }, task).settled(), 'dropped')
      t.equal(await delayed.cancel(), true)
      t.equal(await waiting.cancel(), true)
      t.equal(await app.backgroundTasks.add({ dedupe: 'two' }, task).settled(), 'completed')
    })
  }

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
    const unique = lacks.dedupe === undefined ? { dedupe: 'one' } : {}
    const handle = first.backgroundTasks.add({ delay: 1_000, ...unique }, task, 1)
    await first.backgroundTasks.flush()
    await first.close()
    const second = await createApp(t, { ...await sameAs(shared), tasks: [task] })
    await second.ready()
    if (lacks.dedupe === undefined) t.equal(await second.backgroundTasks.add(unique, task, 2).settled(), 'dropped')
    t.match(await settledInfo(second, handle.id), { state: 'completed' })
    t.ok(Date.now() - begin >= 995)
    t.same(ran, [1])
  })

  if (lacks.list !== undefined) {
    t.test(`no list: ${lacks.list}`, async t => {
      const { backend } = await options()
      for (const name of ['list', 'page', 'read', 'remove', 'retry'] as const) t.equal(backend![name], undefined, name)
    })
  } else {
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
      t.same(await backend.list!(10), { counts: { running: 0, waiting: 0, delayed: 0, failed: 0, completed: 0 }, tasks: [] })
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
      t.same(counts, { running: 1, waiting: 1, delayed: 2, failed: 1, completed: 0 })
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

    t.test('each list is read in parts, in either order; of a task there is all that is known; a failed one can be removed', async t => {
      const gate = { open: false }
      const task = defineTask('listed', async ({ n, fails }: { n: number, fails?: boolean }, ctx) => {
        if (fails) throw new Error(`attempt ${ctx.attempt}`)
        return { n }
      }, { attempts: 2 })
      const hang = defineTask('hang', async () => { await until('the gate', () => gate.open) })
      const shared = await options()
      const app = await createApp(t, { ...shared, tasks: [task, hang], worker: { concurrency: 1 } })
      t.teardown(() => { gate.open = true })
      await app.ready()
      const backend = shared.backend!
      const begin = Date.now()
      const done = []
      for (const n of [1, 2, 3]) {
        const handle = app.backgroundTasks.add({ name: `done ${n}` }, task, { n })
        t.equal(await handle.settled(), 'completed')
        done.push(handle.id)
      }
      const failing = app.backgroundTasks.add(task, { n: 4, fails: true })
      t.equal(await failing.settled(), 'failed')
      const running = app.backgroundTasks.add(hang)
      await until('it runs', async () => (await app.backgroundTasks.find(running.id))?.state === 'running')
      const waiting = []
      for (const n of [5, 6, 7]) {
        waiting.push(app.backgroundTasks.add(task, { n }).id)
        await app.backgroundTasks.flush()
      }
      const delayed = app.backgroundTasks.add({ delay: 3_600_000 }, task, { n: 8 })
      await app.backgroundTasks.flush()

      t.same((await backend.list!(10)).counts, { running: 1, waiting: 3, delayed: 1, failed: 1, completed: 3 })
      const ids = async (...args: Parameters<NonNullable<typeof backend.page>>) => (await backend.page!(...args)).map(({ id }) => id)
      t.same(await ids('waiting', 0, 10, false), waiting)
      t.same(await ids('waiting', 0, 10, true), [...waiting].reverse())
      t.same(await ids('waiting', 1, 1, false), [waiting[1]])
      t.same(await ids('waiting', 2, 10, true), [waiting[0]])
      t.same(await ids('waiting', 3, 10, true), [])
      t.same(await ids('completed', 0, 2, true), [done[2], done[1]])
      t.same(await ids('running', 0, 10, true), [running.id])
      t.same(await ids('delayed', 0, 10, false), [delayed.id])
      t.same(await ids('failed', 0, 10, false), [failing.id])

      const first = await backend.read!(done[0]!)
      t.match(first, { id: done[0], name: 'listed', label: 'done 1', state: 'completed', attempt: 1, attempts: 2, payload: '{"n":1}', result: { n: 1 }, error: undefined })
      t.same(first!.errors, [])
      const times = [begin, first!.added, first!.started, first!.ended, Date.now()] as number[]
      t.ok(times.every((time, index) => index === 0 || time >= times[index - 1]! - 60_000), String(times))
      const failed = await backend.read!(failing.id)
      t.match(failed, { state: 'failed', attempt: 2, error: { message: 'attempt 2' } })
      t.same(failed!.errors.map(({ message }) => message), ['attempt 1', 'attempt 2'])
      t.match(failed!.errors[0]!.stack, 'conformance.ts')
      t.match(await backend.read!(running.id), { state: 'running', ended: null, errors: [] })
      t.ok((await backend.read!(running.id))!.since! >= begin - 60_000)
      t.match(await backend.read!(delayed.id), { state: 'delayed' })
      t.match(await backend.read!(waiting[0]!), { state: 'waiting', attempt: 0, started: null })
      const unknown = '00000000-0000-4000-8000-000000000000'
      t.equal(await backend.read!(unknown), null)

      for (const id of [waiting[0]!, delayed.id, running.id, done[0]!, unknown]) t.equal(await backend.remove!(id), false)
      t.same(await Promise.all([backend.remove!(failing.id), backend.remove!(failing.id)]).then(results => results.filter(Boolean).length), 1, 'once')
      t.equal(await backend.read!(failing.id), null)
      t.equal(await backend.retry!(failing.id), false)
      t.same((await backend.list!(10)).counts, { running: 1, waiting: 3, delayed: 1, failed: 0, completed: 3 })
    })
  }

  t.test('a worker that is paused goes on with what it has, takes nothing more, and takes it when it is resumed', async t => {
    const gate = { open: false }
    const ran: string[] = []
    let begun = 0
    const hangIn = (process: string) => defineTask('hang', async () => {
      begun++
      await until('the gate', () => gate.open)
      ran.push(process)
    })
    const hang = hangIn('first')
    const shared = await options()
    const app = await createApp(t, { ...shared, tasks: [hang], worker: { concurrency: 2 } })
    t.teardown(() => { gate.open = true })
    await app.ready()
    const backend = shared.backend!
    const first = app.backgroundTasks.add(hang)
    await until('it runs', () => begun === 1)
    await backend.pause()
    const second = app.backgroundTasks.add(hang)
    await app.backgroundTasks.flush()
    gate.open = true
    t.equal(await first.settled(), 'completed')
    const other = await createApp(t, { ...await sameAs(shared), tasks: [hangIn('second')] })
    await other.ready()
    t.equal(await second.settled(), 'completed')
    t.same(ran, ['first', 'second'])
    await other.close()
    const third = app.backgroundTasks.add(hang)
    await app.backgroundTasks.flush()
    t.match(await app.backgroundTasks.find(third.id), { state: 'pending' })
    await backend.resume!()
    // Once more changes nothing.
    await backend.resume!()
    t.equal(await third.settled(), 'completed')
    t.same(ran, ['first', 'second', 'first'])
  })

  if (lacks.list === undefined) {
    t.test('what is run again has its dedupe id again, or stays where another one has it', async t => {
      const gate = { open: false, broken: true }
      let running = 0
      const task = defineTask('again', async () => {
        if (gate.broken) throw new Error('broken')
        running++
        await until('the gate', () => gate.open)
      })
      const shared = await options()
      const app = await createApp(t, { ...shared, tasks: [task] })
      t.teardown(() => { gate.open = true })
      await app.ready()
      const backend = shared.backend!
      const failing = app.backgroundTasks.add({ dedupe: 'one' }, task)
      const { id } = failing
      t.equal(await failing.settled(), 'failed')
      gate.broken = false
      t.same(await Promise.all([1, 2, 3].map(() => backend.retry!(id))).then(results => results.filter(result => result).length), 1, 'once')
      await until('it runs again', () => running === 1)
      t.equal(await app.backgroundTasks.add({ dedupe: 'one' }, task).settled(), 'dropped')
      t.equal(await backend.retry!(id), false)
      gate.open = true
      t.match(await settledInfo(app, id), { state: 'completed' })
      gate.broken = true
      const second = app.backgroundTasks.add({ dedupe: 'one' }, task)
      t.equal(await second.settled(), 'failed', 'free again once it has ended')
      gate.broken = gate.open = false
      const third = app.backgroundTasks.add({ dedupe: 'one' }, task)
      await until('it runs', () => running === 2)
      t.equal(await backend.retry!(second.id), false, 'another one has the id')
      t.match(await app.backgroundTasks.find(second.id), { state: 'failed' })
      gate.open = true
      t.equal(await third.settled(), 'completed')
      t.equal(await backend.retry!(second.id), true)
      t.match(await settledInfo(app, second.id), { state: 'completed' })
      t.equal(running, 3)
    })
  }

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
    const cancelled = await waiting.cancel()
    t.equal(cancelled, lacks.cancelWaiting === undefined)
    const worker = await createApp(t, { ...await sameAs(shared), tasks: [task] })
    await worker.ready()
    const handle = web.backgroundTasks.add(task)
    await until('it runs', async () => (await web.backgroundTasks.find(handle.id))?.state === 'running')
    t.equal(await handle.cancel(), false)
    gate.open = true
    t.equal(await handle.settled(), 'completed')
    t.equal(running, cancelled ? 1 : 2)
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

/** A transaction on a Postgres. */
export async function beginOnPostgres (t: Test, connectionString: string): Promise<OpenTransaction> {
  const client = new Client({ connectionString })
  await client.connect()
  t.teardown(() => client.end())
  await client.query('BEGIN')
  return { client, end: how => client.query(how) }
}
