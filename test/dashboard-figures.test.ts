import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { dashboard } from '../lib/dashboard'
import { aheadClock, detailsAt, listPage, openStream, OWN_PAGE, tasksAt } from './support/dashboard'
import { begun, createApp, listen, settled, signal } from './support/server'
import { until } from './support/until'

/* The figures of the first screen are those of all tasks, and say what is the case. The clock is the test's. */

test('a task whose progress moves is not stuck; one whose progress stands still is', async t => {
  const { later } = aheadClock(t)
  let step = signal()
  const end = signal()
  const task = defineTask('moves', async (_payload: undefined, ctx) => {
    for (let page = 1; page <= 2; page++) {
      ctx.progress({ page, pages: 4 })
      await step.promise
    }
    await end.promise
  })
  const { app } = await createApp(t, { tasks: [task], closeTimeout: 100 })
  t.teardown(() => end.resolve())
  await app.register(dashboard, { prefix: '/tasks', stuckAfter: 30_000 })
  const { url } = await listen(app)
  const { id } = app.backgroundTasks.add(task)
  await begun(app, id)
  later(60_000)
  const { resolve } = step
  step = signal()
  resolve()
  const viewer = await openStream(t, `${url}/tasks/events`)
  const moved = await viewer.until(({ longest }) => longest[0]?.progress?.text === '{"page":2,"pages":4}')
  t.same(moved.stuck, { count: 0, first: null })
  t.ok(moved.now - moved.longest[0]!.since! >= 60_000)
  later(40_000)
  const { stuck } = await viewer.until(({ stuck }) => stuck.count !== 0)
  t.match(stuck, { count: 1, first: { id } })
  t.ok(stuck.first!.silentSince! - stuck.first!.since! >= 60_000)
  step.resolve()
})

test('where nothing starts, the time in the queue grows: also that of the seconds before the page was opened', async t => {
  const { later } = aheadClock(t)
  const end = signal()
  const { app } = await createApp(t, { concurrency: 1, closeTimeout: 100 })
  t.teardown(() => end.resolve())
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  app.backgroundTasks.add(async () => { await end.promise })
  app.backgroundTasks.add(function waits () {})
  await settled(app, { running: 1, pending: 1 })
  later(60_000)
  const { seconds, oldest } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(oldest, { name: 'waits' })
  const longest = seconds.map(({ longest }) => longest)
  t.ok(longest.at(-1)! >= 58_000 && longest.at(-1)! <= 61_000, String(longest.at(-1)))
  t.ok(longest.at(-30)! >= 29_000 && longest.at(-30)! <= 32_000, String(longest.at(-30)))
  t.same(seconds.slice(-50).map(({ mean }) => mean), Array.from({ length: 50 }, () => null), 'there is no mean of nothing')

  end.resolve()
  await settled(app, { completed: 2 })
  later(2_000)
  const after = (await (await openStream(t, `${url}/tasks/events`)).first).seconds
  t.ok(after.some(({ longest }) => longest >= 29_000 && longest <= 32_000), 'what has begun since had been waiting before')
})

test('of many tasks the figures are whole, and what runs is found behind what waits', async t => {
  const { app } = await createApp(t, { closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks', failures: 10 })
  const { url } = await listen(app)
  const at = `${url}/tasks`
  for (let i = 0; i < 6_000; i++) app.backgroundTasks.add({ name: 'later', delay: 600_000 }, () => {})
  const end = signal()
  t.teardown(() => end.resolve())
  for (let i = 0; i < 7; i++) app.backgroundTasks.add({ name: `last ${i}` }, async () => { await end.promise })
  for (let i = 0; i < 10; i++) app.backgroundTasks.add({ name: 'later', delay: 600_000 }, () => {})
  for (let i = 0; i < 30; i++) app.backgroundTasks.add({ name: i % 2 === 0 ? 'even' : 'odd' }, () => { throw new Error(`order ${i} of 00000000-0000-4000-8000-00000000000${i % 10}`) })
  await settled(app, { pending: 6_010, running: 7, failed: 30 })
  const viewer = await openStream(t, `${at}/events`)
  const { totals, longest, failures } = await viewer.first
  t.same(totals, { running: 7, waiting: 0, later: 6_010, failed: 30 })
  t.equal(longest.length, 5)
  t.same(failures.groups.map(({ name, count, again }) => [name, count, again]).sort(), [['even', 15, 5], ['odd', 15, 5]])
  const page = await listPage(at, 'failed', { order: 'newest' })
  t.match(page, { tasks: { length: 10 }, note: 'Of this process, the last 10 failed tasks are kept, and of 20 others the number.' })
  t.match(await listPage(at, 'later', { offset: '5960' }), { tasks: { length: 50 } })
  t.match(await listPage(at, 'later', { search: 'nothing' }), { tasks: [], next: 5_000, looked: 5_000 })
  t.match(await listPage(at, 'running', { order: 'newest' }), { tasks: [{ name: 'last 6' }] })
  const post = async (path: string) => (await fetch(`${at}/${path}`, { method: 'POST', headers: OWN_PAGE })).json()
  t.same(await post(`tasks/${page.tasks[0]!.id}/dismiss`), { done: true })
  t.equal((await viewer.until(({ totals }) => totals.failed === 29)).failures.of, 29)
  for (const { id } of failures.groups) await post(`groups/${id}/dismiss`)
  t.same((await viewer.until(({ totals }) => totals.failed === 0)).failures, { groups: [], of: 0, more: 0 })
})

test('a task that has ended in this process can still be looked at by those who have opened it', async t => {
  const end = signal()
  const { app } = await createApp(t)
  await app.register(dashboard, { prefix: '/tasks', payload: true })
  const { url } = await listen(app)
  const at = `${url}/tasks`
  app.backgroundTasks.add({ attempts: 2, backoff: 0 }, async function sum () {
    await end.promise
    return { sum: 5 }
  })
  await settled(app, { running: 1 })
  const [task] = await tasksAt(at)
  t.match(await detailsAt(at, task!.id), { state: 'running', payload: '[]' })
  end.resolve()
  await settled(app, { completed: 1 })
  const { now } = Date
  t.teardown(() => { Date.now = now })
  Date.now = () => now() + 2_000
  t.match(await detailsAt(at, task!.id), { state: 'completed', result: '{\n  "sum": 5\n}', errors: [], here: true })
  t.equal((await listPage(at, 'completed')).note, 'This process keeps no completed tasks. A backend does: SQLite, Redis or PostgreSQL.')
})

test('of a request with very many tasks the first five thousand are looked at, and all are counted', async t => {
  const end = signal()
  const { app } = await createApp(t, { closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks' })
  app.get('/', async request => {
    for (let i = 0; i < 6_000; i++) request.backgroundTasks.add({ name: 'many' }, async () => { await end.promise })
    return 'x'
  })
  const { url } = await listen(app)
  t.teardown(() => end.resolve())
  await fetch(url)
  await settled(app, { running: 1, pending: 5_999 })
  const { totals, waiting } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(totals, { running: 1, waiting: 5_999 })
  t.equal(waiting.groups.length, 1)
  t.equal(waiting.groups[0]!.count, waiting.of)
  t.ok(waiting.of > 4_900 && waiting.of <= 5_000, String(waiting.of))
})

test('the task that is tried again next, wherever it stands', async t => {
  const { app } = await createApp(t, { closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  for (const backoff of [60_000, 30_000, 90_000]) app.backgroundTasks.add({ name: `in ${backoff}`, attempts: 2, backoff }, () => { throw new Error('not yet') })
  await settled(app, { pending: 3, retried: 3 })
  const { retrying } = await (await openStream(t, `${url}/tasks/events`)).first
  t.match(retrying, { count: 3, next: { name: 'in 30000', why: 'Error: not yet' } })
})

test('of what runs those are shown that have been silent longest', async t => {
  const { later } = aheadClock(t)
  const end = signal()
  const speak = signal()
  const speaker = defineTask('speaker', async (_payload: undefined, ctx) => {
    await speak.promise
    ctx.progress(1)
    await end.promise
  })
  const { app } = await createApp(t, { tasks: [speaker], closeTimeout: 100 })
  app.backgroundTasks.add(async function before () { await end.promise })
  await settled(app, { running: 1 })
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  t.teardown(() => end.resolve())
  const { id } = app.backgroundTasks.add(speaker)
  for (let i = 0; i < 3; i++) app.backgroundTasks.add({ name: `silent ${i}` }, async () => { await end.promise })
  await settled(app, { running: 5 })
  const viewer = await openStream(t, `${url}/tasks/events`)
  const first = (await viewer.first).longest.map(({ name }) => name)
  t.same(new Set(first), new Set(['speaker', 'silent 0', 'silent 1', 'silent 2', 'before']))
  t.equal(first.at(-1), 'before', 'one of unknown age comes last')
  later(5_000)
  app.backgroundTasks.add(async function last () { await end.promise })
  later(5_000)
  speak.resolve()
  await begun(app, id)
  const { longest } = await viewer.until(({ totals }) => totals.running === 6)
  t.same(new Set(longest.map(({ name }) => name)), new Set(['speaker', 'silent 0', 'silent 1', 'silent 2', 'last']))
  t.equal(longest.at(-1)!.name, 'last', 'they stand by how long they have been running')
})

test('a hundred groups of failures are kept: with the oldest group go its tasks', async t => {
  const { later } = aheadClock(t)
  const { app } = await createApp(t)
  await app.register(dashboard, { prefix: '/tasks', failures: 3 })
  const { url } = await listen(app)
  for (let i = 0; i < 101; i++) {
    await app.backgroundTasks.add({ name: `fails ${i}` }, () => { throw new Error('x') }).settled()
    later(1)
  }
  const at = `${url}/tasks`
  const viewer = await openStream(t, `${at}/events`)
  const told = await viewer.first
  t.equal(told.totals.failed, 100)
  t.match(told.failures, { of: 100, more: 50, groups: { length: 50 } })
  t.match(told.failures.groups[0], { name: 'fails 100', again: 1 })
  const { tasks, note } = await listPage(at, 'failed')
  t.same(tasks.map(({ name }) => name), ['fails 98', 'fails 99', 'fails 100'])
  t.equal(note, 'Of this process, the last 3 failed tasks are kept, and of 97 others the number.')
  const post = async (path: string) => (await fetch(`${at}/${path}`, { method: 'POST', headers: OWN_PAGE })).json()
  const group = told.failures.groups.find(({ name }) => name === 'fails 99')!
  t.same(await post(`groups/${group.id}/run-again`), { done: 1, next: null }, 'that group, and no other')
  await settled(app, { failed: 102 })
  t.same((await listPage(at, 'failed')).tasks.map(({ name }) => name), ['fails 98', 'fails 100', 'fails 99'])
})

test('failures of this process have their pages, too', async t => {
  const { app } = await createApp(t)
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  for (let i = 0; i < 60; i++) app.backgroundTasks.add({ name: `fails ${i}` }, () => { throw new Error('x') })
  await settled(app, { failed: 60 })
  const first = await listPage(`${url}/tasks`, 'failed', { order: 'newest' })
  t.match(first, { tasks: { length: 50 }, next: 50, looked: 50 })
  t.match(first.tasks[0], { name: 'fails 59', here: true, stored: false })
  t.match(await listPage(`${url}/tasks`, 'failed', { order: 'newest', offset: '50' }), { tasks: { length: 10, 9: { name: 'fails 0' } }, next: null })
})

test('a list whose place is lost, because what stood there has ended, goes on from there', async t => {
  const { app } = await createApp(t, { closeTimeout: 100 })
  let last = () => {}
  await app.register(dashboard, {
    prefix: '/tasks',
    preHandler: (_request, _reply, done) => {
      // Before the list goes on.
      setImmediate(last)
      done()
    }
  })
  const { url } = await listen(app)
  const handles = Array.from({ length: 1_500 }, (_, i) => app.backgroundTasks.add({ name: `task ${i}`, delay: 600_000 }, () => {}))
  last = () => {
    handles[999]!.cancel()
    last = () => {}
  }
  const found: string[] = []
  let parts = 0
  for (let offset: number | null = 0; offset !== null; parts++) {
    const { tasks, next } = await listPage(`${url}/tasks`, 'later', { search: 'task 14', offset: String(offset) })
    found.push(...tasks.map(({ name }) => name))
    offset = next
  }
  t.equal(parts, 4, 'one ends early, and the others are full')
  t.same(found, ['task 14', ...Array.from({ length: 10 }, (_, i) => `task ${140 + i}`), ...Array.from({ length: 100 }, (_, i) => `task ${1_400 + i}`)])
})

test('the last page of failures has no next one, although more have failed', async t => {
  const { app } = await createApp(t)
  await app.register(dashboard, { prefix: '/tasks', failures: 50 })
  const { url } = await listen(app)
  for (let i = 0; i < 120; i++) app.backgroundTasks.add({ name: 'fails' }, () => { throw new Error('x') })
  await settled(app, { failed: 120 })
  t.match(await listPage(`${url}/tasks`, 'failed'), { tasks: { length: 50 }, next: null })
})

/** An application whose only place is taken. */
async function serveBusy (t: Test) {
  const end = signal()
  const { app } = await createApp(t, { concurrency: 1, closeTimeout: 100 })
  t.teardown(() => end.resolve())
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  app.backgroundTasks.add(() => end.promise)
  return { app, url }
}

test('of many names of waiting tasks all are counted', async t => {
  const { app, url } = await serveBusy(t)
  for (let i = 0; i < 99; i++) app.backgroundTasks.add({ name: `task ${i}` }, () => {})
  const viewer = await openStream(t, `${url}/tasks/events`)
  t.match((await viewer.until(({ waiting }) => waiting.of === 99)).waiting, { groups: { length: 50 }, more: 49 })
})

test('what runs again keeps its dedupe id', async t => {
  const end = signal()
  let isBroken = true
  const task = defineTask('task', async () => {
    if (isBroken) throw new Error('x')
    await end.promise
  })
  const { app } = await createApp(t, { tasks: [task], closeTimeout: 100 })
  t.teardown(() => end.resolve())
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  const { id } = app.backgroundTasks.add({ dedupe: 'one' }, task)
  await settled(app, { failed: 1 })
  const runAgain = async () => (await fetch(`${url}/tasks/tasks/${id}/run-again`, { method: 'POST', headers: OWN_PAGE })).json()
  isBroken = false
  app.backgroundTasks.add({ dedupe: 'one' }, task)
  t.same(await runAgain(), { done: false }, 'not beside another one with its id')
  t.match(await listPage(`${url}/tasks`, 'failed'), { tasks: [{ id }] })
  end.resolve()
  await settled(app, { completed: 1, dropped: 1, failed: 1 })
  t.match(await runAgain(), { done: true })
})

test('the page of a task says what is known: when its last attempt began, its whole progress, whether anything can end it', async t => {
  const { later } = aheadClock(t)
  const end = signal()
  const files = Array.from({ length: 40 }, (_, i) => `folder/file-${i}.png`)
  const copy = defineTask('copy', async (_payload: undefined, ctx) => {
    ctx.progress({ files })
    await end.promise
  })
  const { app } = await createApp(t, { tasks: [copy], closeTimeout: 100 })
  t.teardown(() => end.resolve())
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  const at = `${url}/tasks`
  const fail = signal()
  const [copies, hangs, listens, fails] = [
    app.backgroundTasks.add(copy),
    app.backgroundTasks.add(async () => { await end.promise }),
    app.backgroundTasks.add({ signal: true }, async _signal => { await end.promise }),
    app.backgroundTasks.add(async () => {
      await fail.promise
      throw new Error('x')
    })
  ]
  await settled(app, { running: 4 })
  t.equal((await detailsAt(at, copies.id)).progress!.text, JSON.stringify({ files }, null, 2))
  t.equal((await listPage(at, 'running')).tasks.find(({ id }) => id === copies.id)!.progress!.text.length, 200, 'cut off in a list')
  t.match(await detailsAt(at, hangs.id), { cancellable: false, why: 'It has no timeout, and cannot be cancelled: it ends by itself, or with the process.' })
  t.match(await detailsAt(at, listens.id), { cancellable: true, why: 'It has no timeout.' })
  const begun = (await detailsAt(at, fails.id)).started!
  later(5_000)
  fail.resolve()
  await settled(app, { running: 3, failed: 1 })
  const { started, ended } = await detailsAt(at, fails.id)
  t.equal(started, begun)
  t.ok(ended! - started! >= 5_000)
})

test('a delay does not count as waiting', async t => {
  const { app, url } = await serveBusy(t)
  const added = Date.now()
  const { id } = app.backgroundTasks.add({ delay: 300 }, () => {})
  await until('it is due', async () => (await detailsAt(`${url}/tasks`, id)).state === 'waiting')
  t.ok((await detailsAt(`${url}/tasks`, id)).since! >= added + 300)
})
