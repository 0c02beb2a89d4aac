import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ConsumeMessage } from 'amqplib'
import type { FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type TaskContext, type TaskInfo } from '../../index'
import { celery, type CeleryOptions } from '../../lib/backends/celery'
import { readMessage } from '../../lib/backends/celery/incoming'
import { isoTime } from '../../lib/backends/celery/message'
import { celeryWorker, noCelery, python, type Servers } from '../support/celery'
import { createApp } from '../support/server'
import { ownRabbit, redis } from '../support/services'
import { until } from '../support/until'

// With real Celery on the other side.

test('Fastify and Celery', { skip: noCelery }, async t => {
  const [rabbit, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])
  const servers: Servers = { broker: rabbit.url, results }
  const worker = await celeryWorker(t, servers)

  async function start (t: Test, tasks: BackgroundTasksOptions['tasks'], options: Partial<CeleryOptions> = {}, more: BackgroundTasksOptions = {}) {
    const backend = celery({ broker: servers.broker, results, queue: 'fastify', routes: { 'py.*': 'celery' }, ...options })
    const { app, log } = await createApp(t, { tasks: tasks!, backend, ...more })
    app.get('/', async request => request.backgroundTasks.add({ name: 'a label' }, tasks![0]!, [String(request.headers.gate)]).id)
    await app.ready()
    return { app, log }
  }

  const endOf = (app: FastifyInstance, id: string) => until(`the end of ${id}`, async () => {
    const info = await app.backgroundTasks.find(id)
    return info !== null && ['completed', 'failed', 'cancelled'].includes(info.state) && info
  }) as Promise<TaskInfo>

  t.test('Fastify adds, Python runs: keyword arguments, positional ones, one, none', async t => {
    const echo = defineTask<unknown>('py.echo')
    const single = defineTask<unknown>('py.echo', { singleArgument: true })
    const { app } = await start(t, [echo], {}, { worker: false })
    const { app: other } = await start(t, [single], {}, { worker: false })
    const resultOf = async (app: FastifyInstance, task: typeof echo, payload: unknown) => {
      const handle = app.backgroundTasks.add(task, payload)
      const { id } = handle
      t.equal(await handle.settled(), 'completed')
      const info = await app.backgroundTasks.find(id)
      t.match(info, { name: 'py.echo', attempts: 1, error: undefined })
      return info!.result
    }
    const nested = { text: 'ä € 😀 "\\\u2028', list: [[{ a: null }], 1.5, -3, true], '': {} }
    t.same(await resultOf(app, echo, nested), { args: [], kwargs: nested })
    t.same(await resultOf(app, echo, [1, 'two', nested]), { args: [1, 'two', nested], kwargs: {} })
    t.same(await resultOf(app, echo, 'one'), { args: ['one'], kwargs: {} })
    t.same(await resultOf(app, echo, undefined), { args: [], kwargs: {} })
    t.same(await resultOf(app, echo, null), { args: [null], kwargs: {} })
    t.same(await resultOf(other, single, nested), { args: [nested], kwargs: {} })
    t.same(await resultOf(other, single, [1, 2]), { args: [[1, 2]], kwargs: {} })
    const large = { text: 'ä'.repeat(1_000_000) }
    t.same(await resultOf(app, echo, large), { args: [], kwargs: large })
  })

  t.test('an error of Python comes with its type, its message and its traceback', async t => {
    const fail = defineTask<string>('py.fail')
    const { app } = await start(t, [fail], {}, { worker: false })
    const handle = app.backgroundTasks.add(fail, 'nö')
    const { id } = handle
    t.equal(await handle.settled(), 'failed')
    const { error } = (await app.backgroundTasks.find(id))!
    t.match(error, { name: 'ValueError', message: 'nö' })
    t.match((error as Error).stack, /File ".*celery_tasks.py", line \d+, in fail/)
  })

  t.test('a state of its own is progress; it can be found before it begins', async t => {
    const gate = join(t.testdir({}), 'gate')
    const progress = defineTask<[string]>('py.progress')
    const { app } = await start(t, [progress], {}, { worker: false })
    const add = async () => (await app.inject({ url: '/', headers: { gate } })).body
    const [first, second] = [await add(), await add()]
    t.match(await until('its progress', async () => {
      const info = await app.backgroundTasks.find(first)
      return info?.progress !== undefined && info
    }), { state: 'running', name: 'a label', progress: { percent: 40, text: 'ä' }, attempts: 1, result: undefined })
    t.match(await app.backgroundTasks.find(second), { state: 'pending', name: 'a label', attempts: 0 })
    writeFileSync(gate, '')
    for (const id of [first, second]) t.match(await endOf(app, id), { state: 'completed', result: 'done' })
  })

  t.test('a delay is an eta', async t => {
    const add = defineTask<[number, number]>('py.add')
    const { app } = await start(t, [add], {}, { worker: false })
    const begin = Date.now()
    t.equal(await app.backgroundTasks.add({ delay: 1_500 }, add, [1, 2]).settled(), 'completed')
    t.ok(Date.now() - begin >= 1_495)
  })

  t.test('times are the same on both sides, to the millisecond', async t => {
    const times = [0, 1, 99, 100, 525, 999].map(ms => Date.UTC(2026, 10, 29, 11, 2, 31, ms))
    t.same(await python(servers, `[round(maybe_iso8601(t).timestamp() * 1000) for t in json.loads('${JSON.stringify(times.map(isoTime))}')]`), times)
    const written = await python<string[]>(servers, `[datetime.fromtimestamp(t / 1000000, timezone.utc).isoformat() for t in ${JSON.stringify(times.flatMap(ms => [ms * 1_000, ms * 1_000 + 1]))}]`)
    const read = (eta: string) => readMessage({ content: Buffer.from('[[], {}, {}]'), properties: { contentType: 'application/json', headers: { task: 'task', id: 'id', eta } } } as unknown as ConsumeMessage, () => undefined).eta
    // A microsecond is rounded up: nothing begins before its time.
    t.same(written.map(read), times.flatMap(ms => [ms, ms + 1]))
    t.same(['2026-11-29T13:02:31.525000+02:00', '2026-11-29T11:02:31.525000', '2026-11-29T11:02:31.525Z'].map(read), [times[4], times[4], times[4]])
  })

  t.test('a task that retries itself there', async t => {
    const retry = defineTask('py.retry')
    const { app } = await start(t, [retry], {}, { worker: false })
    const { id } = app.backgroundTasks.add(retry)
    await app.backgroundTasks.flush()
    t.match(await endOf(app, id), { state: 'completed', result: 2 })
  })

  t.test('a task that Celery does not know is ignored by it', async t => {
    const stranger = defineTask('py.stranger')
    const { app } = await start(t, [stranger], {}, { worker: false })
    app.backgroundTasks.add(stranger)
    await app.backgroundTasks.flush()
    await until('it says so', () => worker.output().includes("Received unregistered task of type 'py.stranger'"))
    t.equal(worker.child.exitCode, null)
  })

  t.test('Python sends, Fastify runs: what its arguments are here', async t => {
    const seen: unknown[] = []
    const task = defineTask('js.echo', async (payload: unknown, ctx: TaskContext) => {
      seen.push(payload, ctx.name, ctx.attempt, ctx.requestId)
      return payload ?? 'none'
    })
    const { app } = await start(t, [task])
    const send = (how: string) => python(servers, `app.send_task('js.echo', queue='fastify', ${how}).get(timeout=100)`)
    const nested = { text: 'ä € 😀', list: [[{ a: null }], 1.5], deep: { er: [] } }
    t.same(await send(`kwargs=json.loads('''${JSON.stringify(nested)}''')`), nested)
    t.same(seen, [nested, 'js.echo', 1, null])
    t.same(await send("args=['one']"), 'one')
    t.same(await send("args=[{'a': 1}]"), { a: 1 })
    t.same(await send("args=['one', 2]"), ['one', 2])
    t.same(await send("args=['one'], kwargs={'a': 1}"), ['one', { a: 1 }])
    t.same(await send('args=[]'), 'none')
    t.same((await send("args=['ä' * 1000000]") as string).length, 1_000_000)
    t.match(app.backgroundTasks.stats(), { completed: 7 })
  })

  t.test('an error of JavaScript raises in Python, with its name and message', async t => {
    const task = defineTask('js.fail', async (message: string) => {
      throw Object.assign(new RangeError(message), { code: 'E_RANGE' })
    }, { attempts: 2 })
    const { app } = await start(t, [task])
    const [id, ...rest] = await python<string[]>(servers, "(lambda r: [r.id] + thrown(lambda: r.get(timeout=100)) + [r.state, r.traceback])(app.send_task('js.fail', ['nö'], queue='fastify'))")
    t.same(rest.slice(0, 4), ['RangeError', 'nö', true, 'FAILURE'])
    t.match(rest[4], /RangeError: nö\n {4}at .*celery-python/)
    t.match(await app.backgroundTasks.find(id as string), { name: 'js.fail', state: 'failed', attempts: 2, error: { message: 'nö', code: 'E_RANGE' } })
  })

  t.test('progress is a state that Python sees', async t => {
    let open = false
    const task = defineTask('js.progress', async (_payload: unknown, ctx: TaskContext) => {
      ctx.progress({ percent: 60 })
      await until('the gate', () => open)
      return 'end'
    })
    await start(t, [task])
    const [id, state, info] = await python<[string, string, unknown]>(servers, "(lambda r: [r.id] + states(r, ['PROGRESS']))(app.send_task('js.progress', queue='fastify'))")
    t.same([state, info], ['PROGRESS', { percent: 60 }])
    open = true
    t.equal(await python(servers, `AsyncResult('${id}', app=app).get(timeout=100)`), 'end')
  })

  t.test('countdown, expires, retries, a time limit', async t => {
    const seen: Array<{ name: string, attempt: number, time: number }> = []
    const task = defineTask('js.timed', async (name: string, ctx: TaskContext) => {
      seen.push({ name, attempt: ctx.attempt, time: Date.now() })
      if (name === 'limited') await sleep(100_000, undefined, { signal: ctx.signal })
    })
    const { app } = await start(t, [task])
    const begin = Date.now()
    await python(servers, "app.send_task('js.timed', ['later'], queue='fastify', countdown=1).get(timeout=100)")
    t.ok(seen[0]!.time - begin >= 995)
    await python(servers, "app.send_task('js.timed', ['again'], queue='fastify', retries=2).get(timeout=100)")
    t.match(seen[1], { name: 'again', attempt: 3 })
    t.same(await python(servers, "thrown(lambda: app.send_task('js.timed', ['limited'], queue='fastify', soft_time_limit=0.2).get(timeout=100))"), ['FastifyError', "The background task 'js.timed' took longer than its timeout of 200 ms", true])
    t.same(await python(servers, "thrown(lambda: app.send_task('js.timed', ['expired'], queue='fastify', expires=-1).get(timeout=100))"), ['TaskRevokedError', 'expired', true])
    t.same(seen.map(({ name }) => name), ['later', 'again', 'limited'])
    t.match(app.backgroundTasks.stats(), { completed: 2, failed: 1 })
  })

  t.test('a chain goes through both; what a group or a chord needs stays with Celery', async t => {
    const double = defineTask('js.double', async (n: number) => n * 2)
    const { log } = await start(t, [double])
    t.equal(await python(servers, `chain(
      signature('py.add', (2, 3), app=app), signature('js.double', queue='fastify', app=app),
      signature('py.add', (10,), app=app), signature('js.double', queue='fastify', app=app), signature('py.add', (1, 1), immutable=True, app=app)
    ).apply_async().get(timeout=100)`), 2)
    t.equal(await python(servers, "chain(signature('js.double', (4,), queue='fastify', app=app), signature('py.add', (10,), app=app)).apply_async().get(timeout=100)"), 18)
    t.same(await python(servers, "group(signature('js.double', (n,), queue='fastify', app=app) for n in [1, 2]).apply_async().get(timeout=100)"), [2, 4], 'a group is only read')
    t.equal(await python(servers, "(lambda r: AsyncResult(r, app=app).get(timeout=100))((lambda i: [app.send_task('js.double', [5], queue='fastify', link=signature('py.add', (1,), app=app, task_id=i)), i][1])('6f1c1d9e-3a37-4c4b-9d5e-0f7a3f6b2f11'))"), 11, 'a callback')
    await python(servers, "chain(signature('js.double', (4,), queue='fastify', app=app), group(signature('py.add', (1,), app=app), signature('py.add', (2,), app=app))).apply_async().parent.get(timeout=100)")
    t.match(log.filter(({ level }) => level === 50), [{ msg: /what follows a background task is a group or a chord/, step: 'celery.group' }])
  })
})
