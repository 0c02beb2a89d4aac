import Fastify, { type FastifyInstance } from 'fastify'
import { once } from 'node:events'
import { test } from 'tap'
import backgroundTasks, { type TaskHandle } from '../index'
import { rawClient } from './support/client'
import { createApp, listen, settled, signal, turns, type LogLine } from './support/server'

/** A plugin with something that onClose closes, and that a task must not use after that. */
class Database {
  isOpen = true

  readonly plugin = Object.assign(async (app: FastifyInstance) => {
    app.addHook('onClose', async () => {
      await turns(1)
      this.isOpen = false
    })
  }, { [Symbol.for('skip-override')]: true })

  async write (): Promise<void> {
    await turns(1)
    if (!this.isOpen) throw new Error('the database is closed')
  }
}

const unfinished = (log: LogLine[]) => log.filter(({ msg }) => msg === 'background task did not end before the application closed')
const drained = (log: LogLine[]) => log.filter(({ msg }) => msg === 'background tasks drained')

test('while the tasks drain, the databases of plugins registered before and after this one are open', async t => {
  const log: LogLine[] = []
  const app = Fastify({ forceCloseConnections: true, logger: { stream: { write: line => { log.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  const databases = { before: new Database(), after: new Database(), within: new Database(), around: new Database() }
  app.addHook('onClose', async () => { databases.around.isOpen = false })
  await app.register(databases.before.plugin)
  await app.register(backgroundTasks)
  await app.register(databases.after.plugin)
  await app.register(async child => {
    await child.register(databases.within.plugin)
    child.get('/', async request => {
      request.backgroundTasks.add(async () => {
        running.resolve()
        await go.promise
      })
      for (const [name, database] of Object.entries(databases)) request.backgroundTasks.add({ name }, () => database.write())
      return 'x'
    })
  })
  const [running, go] = [signal(), signal()]
  const { url } = await listen(app)
  await fetch(url)
  await running.promise
  const serverClosed = once(app.server, 'close')
  const closed = app.close()
  await serverClosed
  await turns(10)
  go.resolve()
  await closed
  t.match(app.backgroundTasks.stats(), { accepted: 5, completed: 5 })
  t.same(Object.values(databases).map(({ isOpen }) => isOpen), [false, false, false, false])
  t.same(unfinished(log), [])
  t.match(drained(log), [{ level: 30, backgroundTasks: { accepted: 5, completed: 5, failed: 0, pending: 0, running: 0 } }])
})

test('close waits for tasks that run, wait for their turn or next attempt, or are delayed by less than closeTimeout', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 60_000 })
  const seen: string[] = []
  const [running, go] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add({ attempts: 3, backoff: 10 }, () => {
      seen.push('attempt')
      if (seen.filter(name => name === 'attempt').length < 3) throw new Error('not yet')
    })
    request.backgroundTasks.add({ delay: 40 }, () => { seen.push('delayed') })
    request.backgroundTasks.add(async () => {
      running.resolve()
      await go.promise
      seen.push('running')
    })
    request.backgroundTasks.add(() => { seen.push('pending') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await running.promise
  const closed = app.close()
  go.resolve()
  await closed
  t.same([...seen].sort(), ['attempt', 'attempt', 'attempt', 'delayed', 'pending', 'running'])
  t.match(app.backgroundTasks.stats(), { accepted: 4, completed: 4, retried: 2 })
  t.same(unfinished(log), [])
})

test('unfinished tasks are reported one by one, by name, id and request id, and given to onError', async t => {
  const errors: Array<[string | undefined, string, string | null]> = []
  const { app, log } = await createApp(t, {
    closeTimeout: 30,
    onError: (error, task, request) => { errors.push([(error as { code?: string }).code, task.name, request?.id ?? null]) }
  })
  const handles: TaskHandle[] = []
  const [running, ran] = [signal(), signal()]
  app.get('/', async request => {
    const { backgroundTasks } = request
    handles.push(
      backgroundTasks.add({ name: 'retrying', attempts: 2, backoff: 60_000 }, () => { throw new Error('not yet') }),
      backgroundTasks.add({ name: 'ended' }, () => {}),
      backgroundTasks.add({ name: 'delayed', delay: 60_000 }, () => t.fail('must not run')),
      backgroundTasks.add({ name: 'running' }, async () => {
        running.resolve()
        await new Promise(() => {})
      }),
      backgroundTasks.add({ name: 'pending' }, () => t.fail('must not run'))
    )
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  handles.push(app.backgroundTasks.add({ name: 'of the application' }, async () => {
    ran.resolve()
    await new Promise(() => {})
  }))
  await Promise.all([running.promise, ran.promise])
  const settledStates = Promise.all(handles.map(handle => handle.settled()))
  await app.close()

  const reqId = 'req-1'
  const [retrying, , delayed, hanging, pending, ofApplication] = handles.map(({ id }) => id)
  t.same(unfinished(log).map(line => [line.level, line.reqId, line.task]).sort((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1), [
    [50, reqId, { id: delayed, name: 'delayed', attempt: 0, state: 'pending' }],
    [50, reqId, { id: hanging, name: 'running', attempt: 1, state: 'running' }],
    [50, reqId, { id: pending, name: 'pending', attempt: 0, state: 'pending' }],
    [50, reqId, { id: retrying, name: 'retrying', attempt: 1, state: 'pending' }],
    [50, undefined, { id: ofApplication, name: 'of the application', attempt: 1, state: 'running' }]
  ].sort((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
  t.same(errors.sort((a, b) => a[1] < b[1] ? -1 : 1), [
    ['FST_BGT_CLOSE_TIMEOUT', 'delayed', reqId],
    ['FST_BGT_CLOSE_TIMEOUT', 'of the application', null],
    ['FST_BGT_CLOSE_TIMEOUT', 'pending', reqId],
    ['FST_BGT_CLOSE_TIMEOUT', 'retrying', reqId],
    ['FST_BGT_CLOSE_TIMEOUT', 'running', reqId]
  ])
  t.same(await settledStates, ['dropped', 'completed', 'dropped', 'failed', 'dropped', 'failed'])
  t.match(drained(log), [{ backgroundTasks: { accepted: 6, completed: 1, dropped: 3, failed: 2, retried: 1, abandoned: 2, pending: 0, running: 0, collecting: 0 } }])
  t.equal(log.at(-1)!.msg, 'background tasks drained', 'the account comes last')
})

test('on an application without a logger the unfinished reach stderr, as process warnings', async t => {
  const { app } = await createApp(t, { closeTimeout: 10 }, { logger: false })
  const warnings: Array<Error & { code?: string }> = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  app.backgroundTasks.add({ name: 'later', delay: 60_000 }, () => {})
  await app.close()
  await turns()
  t.match(warnings, [{ code: 'FST_BGT_CLOSE_TIMEOUT', message: "background task did not end before the application closed: 'later' (pending)" }])
})

test('a task delayed beyond closeTimeout is reported at once: close does not wait for it', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 60_000 })
  const [begun, answer] = [signal(), signal()]
  app.get('/', async request => {
    request.backgroundTasks.add({ name: 'too late', delay: 120_000 }, () => t.fail('must not run'))
    begun.resolve()
    await answer.promise
    return 'x'
  })
  const response = app.inject('/')
  await begun.promise
  const closed = app.close()
  // Now it waits for the handler.
  await turns(20)
  answer.resolve()
  await closed
  await response
  t.match(unfinished(log), [{ task: { name: 'too late', state: 'pending' } }])
})

test('a function abandoned at close that ends later is no longer counted as abandoned', async t => {
  const { app } = await createApp(t, { closeTimeout: 10 })
  const go = signal()
  const handles = [
    app.backgroundTasks.add({ name: 'plain' }, async () => { await go.promise }),
    app.backgroundTasks.add({ name: 'plain, fails' }, async () => {
      await go.promise
      throw new Error('of no interest any more')
    }),
    app.backgroundTasks.add({ name: 'with a signal', signal: true }, async (_signal: AbortSignal) => { await go.promise })
  ]
  await turns()
  await app.close()
  await settled(app, { failed: 3, abandoned: 3 })
  go.resolve()
  await settled(app, { failed: 3 })
  t.same(handles.map(({ state }) => state), ['failed', 'failed', 'failed'])
})

test('close() twice, one after the other and at the same time', async t => {
  const { app, log } = await createApp(t)
  const [running, go] = [signal(), signal()]
  app.backgroundTasks.add(async () => {
    running.resolve()
    await go.promise
  })
  await running.promise
  const both = Promise.all([app.close(), app.close()])
  await turns()
  go.resolve()
  await both
  await app.close()
  t.equal(drained(log).length, 1)
  t.match(drained(log), [{ backgroundTasks: { accepted: 1, completed: 1 } }])
})

test('a task that adds tasks for ever cannot hold it', async t => {
  for (const kind of ['sync', 'async', 'many', 'application'] as const) {
    const { app, log } = await createApp(t, { closeTimeout: 200 })
    let runs = 0
    let refused: any
    app.get('/', async request => {
      const door = kind === 'application' ? app.backgroundTasks : request.backgroundTasks
      const again = (...signal: AbortSignal[]) => {
        runs++
        try {
          // One that adds two would fill the memory within the time that close takes.
          if (kind === 'many' && runs < 100) door.add(again)
          door.add(again)
        } catch (error) {
          refused = error
        }
        return kind === 'async' ? turns(1) : signal
      }
      door.add(again)
      return 'x'
    })
    const { url } = await listen(app)
    await fetch(url)
    await app.close()
    t.ok(runs > 10, `${kind}: ${runs} runs`)
    const { accepted, completed, dropped, failed, pending, running } = app.backgroundTasks.stats()
    t.equal(accepted, completed + dropped + failed)
    t.equal(pending + running, 0)
    t.ok(unfinished(log).length >= 1)
    const before = runs
    await turns(20)
    t.ok(runs - before === 0, 'nothing starts any more')
    t.ok(refused === undefined || refused.code === 'FST_BGT_CLOSED')
  }
})

test('after close add throws FST_BGT_CLOSED, on the request and on the application', async t => {
  const { app } = await createApp(t)
  const [begun, answer] = [signal(), signal()]
  let refused: any
  app.get('/', async request => {
    begun.resolve()
    await answer.promise
    try {
      request.backgroundTasks.add(() => t.fail('must not run'))
    } catch (error) {
      refused = error
      throw error
    }
  })
  const response = app.inject('/')
  await begun.promise
  // Nothing was added, so the request has no collector to wait for.
  await app.close()
  answer.resolve()
  t.equal((await response).statusCode, 503)
  t.match(refused, { code: 'FST_BGT_CLOSED', statusCode: 503 })
  t.throws(() => app.backgroundTasks.add(() => t.fail('must not run')), { code: 'FST_BGT_CLOSED', statusCode: 503 })
  await turns()
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('an application that has accepted nothing logs nothing at close', async t => {
  const { app, log } = await createApp(t)
  app.get('/', async () => 'x')
  const { url } = await listen(app)
  await fetch(url)
  const before = log.length
  await app.close()
  t.same(log.slice(before), [])
})

test('an application whose boot failed can be closed', async t => {
  const log: LogLine[] = []
  const app = Fastify({ logger: { stream: { write: line => { log.push(JSON.parse(line)) } } } })
  app.register(backgroundTasks, { closeTimeout: 60_000 })
  const handles: TaskHandle[] = []
  app.register(async child => {
    handles.push(child.backgroundTasks.add(() => {}))
    throw new Error('no database')
  })
  await t.rejects(async () => { await app.ready() }, { message: 'no database' })
  await app.close()
  t.same(handles.map(({ state }) => state), ['completed'])
  t.match(drained(log), [{ backgroundTasks: { accepted: 1, completed: 1 } }])
})

test('an application that failed to boot before the plugin had loaded can be closed', async t => {
  const app = Fastify()
  app.register(async () => { throw new Error('no database') })
  app.register(backgroundTasks)
  await t.rejects(async () => { await app.ready() }, { message: 'no database' })
  await app.close()
})

test('a task that closes the application does not wait for itself for ever', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 20 })
  const closed = signal()
  app.backgroundTasks.add({ name: 'closer' }, async () => {
    await app.close()
    closed.resolve()
  })
  await closed.promise
  t.match(unfinished(log), [{ task: { name: 'closer', state: 'running' } }])
  await settled(app, { failed: 1 })
})

test('two sibling registrations drain both, before either database closes, and each gives its account', async t => {
  const log: LogLine[] = []
  const app = Fastify({ forceCloseConnections: true, logger: { stream: { write: line => { log.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  const database = new Database()
  const gates = [signal(), signal()]
  const children: FastifyInstance[] = []
  await app.register(database.plugin)
  for (const [index, closeTimeout] of [60_000, 30_000].entries()) {
    await app.register(async child => {
      await child.register(backgroundTasks, { closeTimeout })
      children.push(child)
      child.get(`/${index}`, async request => {
        request.backgroundTasks.add({ name: `task ${index}` }, async () => {
          gates[index]!.resolve()
          await turns()
          await database.write()
        })
        request.backgroundTasks.add({ name: `delayed ${index}`, delay: 120_000 }, () => {})
        return 'x'
      })
    })
  }
  const { url } = await listen(app)
  await Promise.all([fetch(`${url}/0`), fetch(`${url}/1`), ...gates.map(({ promise }) => promise)])
  await app.close()
  for (const child of children) t.match(child.backgroundTasks.stats(), { accepted: 2, completed: 1, dropped: 1 })
  t.equal(drained(log).length, 2)
  t.same(unfinished(log).map(({ task }) => task!.name).sort(), ['delayed 0', 'delayed 1'])
  for (const child of children) t.throws(() => child.backgroundTasks.add(() => {}), { code: 'FST_BGT_CLOSED' })
})

test('an onError that cancels what is reported, or fails, does not disturb the close', async t => {
  const handles: TaskHandle[] = []
  const { app, log } = await createApp(t, {
    closeTimeout: 10,
    onError: () => {
      for (const handle of handles) handle.cancel()
      throw new Error('onError failed')
    }
  })
  const running = signal()
  app.get('/', async request => {
    handles.push(
      request.backgroundTasks.add({ signal: true }, async (_signal: AbortSignal) => {
        running.resolve()
        await new Promise(() => {})
      }),
      request.backgroundTasks.add(() => t.fail('must not start any more')),
      request.backgroundTasks.add({ delay: 60_000 }, () => {})
    )
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await running.promise
  await app.close()
  await settled(app, { cancelled: 3, abandoned: 1 })
  t.equal(unfinished(log).length, 1)
  t.equal(log.filter(({ msg }) => msg === 'onError of background tasks failed').length, 1)
  t.match(drained(log), [{ backgroundTasks: { accepted: 3, cancelled: 3 } }])
})

test('clients that keep their connections alive do not keep the tasks from their databases', async t => {
  const { app } = await createApp(t, {}, { forceCloseConnections: false, keepAliveTimeout: 50 })
  const database = new Database()
  await app.register(database.plugin)
  app.get('/', async request => {
    request.backgroundTasks.add({ delay: 20 }, () => database.write())
    return 'x'
  })
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', '/')
  await client.until('\r\n\r\nx')
  await app.close()
  t.match(app.backgroundTasks.stats(), { accepted: 1, completed: 1 })
})

test("another plugin's preClose hook that fails does not keep the tasks from being waited for", async t => {
  for (const when of ['before', 'after']) {
    const app = Fastify()
    const fails = async () => { throw new Error('of another plugin') }
    if (when === 'before') app.addHook('preClose', fails)
    await app.register(backgroundTasks)
    if (when === 'after') app.addHook('preClose', fails)
    await app.ready()
    let ended = false
    app.backgroundTasks.add(async () => {
      await new Promise(resolve => { setTimeout(resolve, 20) })
      ended = true
    })
    await t.rejects(app.close(), { message: 'of another plugin' })
    t.equal(ended, true, when)
    t.throws(() => app.backgroundTasks.add(() => {}), { code: 'FST_BGT_CLOSED' })
  }
})

test('a next attempt that lies beyond closeTimeout is not waited for', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 60_000 })
  await app.ready()
  app.backgroundTasks.add({ name: 'retrying', attempts: 2, backoff: 120_000 }, () => { throw new Error('boom') })
  await settled(app, { pending: 1, retried: 1 })
  await app.close()
  t.match(log.filter(line => line.level === 50), [{ msg: /did not end before/, task: { name: 'retrying', state: 'pending' } }])
})

test('what is added because the last task has settled is still waited for', async t => {
  const { app, log } = await createApp(t, { closeTimeout: 60_000 })
  const [running, go] = [signal(), signal()]
  const first = app.backgroundTasks.add(async () => {
    running.resolve()
    await go.promise
  })
  const second = first.settled().then(() => app.backgroundTasks.add(() => turns()))
  const third = second.then(handle => handle.settled()).then(() => app.backgroundTasks.add(() => turns()))
  await running.promise
  const closed = app.close()
  await turns(20)
  go.resolve()
  await closed
  t.same([first, await second, await third].map(({ state }) => state), ['completed', 'completed', 'completed'])
  t.same(unfinished(log), [])
})
