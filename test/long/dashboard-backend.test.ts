import type { FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions } from '../../index'
import { dashboard, type DashboardOptions } from '../../lib/dashboard'
import type { GroupCursor, GroupResult } from '../../lib/dashboard/protocol'
import { nextTurn } from '../../lib/shared/timers'
import type { ListedTask, ListName as StoredList, TaskList, TaskRecord } from '../../types/backend'
import { actOnGroup, aheadClock, detailsAt, listPage, openStream, OWN_PAGE, queryOf } from '../support/dashboard'
import { createApp, listen, settled, signal } from '../support/server'
import { StubBackend } from '../support/stub-backend'
import { until } from '../support/until'

/* What the dashboard makes of what a backend has, and of what a backend cannot do. */

const idOf = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`
const NONE = { running: 0, waiting: 0, delayed: 0, failed: 0, completed: 0 }

const listed = (n: number, more: Partial<ListedTask> = {}): ListedTask => ({
  id: idOf(n), name: 'task', label: `task ${n}`, payload: `{"n":${n}}`, requestId: 'req-7', attempts: 3, state: 'waiting', since: 1_000 * n, due: null, attempt: 0, progress: undefined, error: undefined, ...more
})

/** A backend that keeps the tasks that the test puts into its lists. */
class ListingBackend extends StubBackend {
  readonly lists: Record<StoredList, ListedTask[]> = { running: [], waiting: [], delayed: [], failed: [], completed: [] }
  readonly asked: Array<[StoredList, number, number, boolean]> = []
  lists_ = 0
  removed: string[] = []
  retried: string[] = []

  override list = async (limit: number) => {
    const { running, waiting, delayed, failed, completed } = this.lists
    this.lists_++
    return {
      counts: { running: running.length, waiting: waiting.length, delayed: delayed.length, failed: failed.length, completed: completed.length },
      tasks: [running, waiting, delayed, failed].flatMap(list => list.slice(0, limit)).filter(({ state }) => state !== 'cancelled')
    }
  }

  page = async (list: StoredList, offset: number, limit: number, newestFirst: boolean) => {
    this.asked.push([list, offset, limit, newestFirst])
    const tasks = this.lists[list]
    return (newestFirst ? [...tasks].reverse() : tasks).slice(offset, offset + limit)
  }

  read = async (id: string): Promise<TaskRecord | null> => {
    const task = Object.values(this.lists).flat().find(task => task.id === id)
    return task === undefined ? null : { ...task, added: 1, started: 2, ended: 3, errors: task.error === undefined ? [] : [new Error('first'), task.error], result: { sum: 5 } }
  }

  remove = async (id: string) => this.#take(id, this.removed)

  override retry = async (id: string) => this.#take(id, this.retried)

  resume = async () => { this.resumes++ }
  resumes = 0

  #take (id: string, taken: string[]): boolean {
    const index = this.lists.failed.findIndex(task => task.id === id)
    if (index === -1) return false
    this.lists.failed.splice(index, 1)
    taken.push(id)
    return true
  }
}

async function serve (t: Test, options: BackgroundTasksOptions, dashboardOptions: DashboardOptions = {}, routes = (_app: FastifyInstance): void => {}) {
  const { app } = await createApp(t, { closeTimeout: 100, ...options })
  await app.register(dashboard, { prefix: '/tasks', ...dashboardOptions })
  routes(app)
  const { url } = await listen(app)
  const at = `${url}/tasks`
  const post = async (path: string) => {
    const response = await fetch(`${at}/${path}`, { method: 'POST', headers: OWN_PAGE })
    return { status: response.status, body: await response.json() as { done?: boolean | number, next?: GroupCursor | null, message?: string } }
  }
  return { app, url, at, post, stream: () => openStream(t, `${at}/events`) }
}

test('figures are those of the store, however many tasks are shown; what it has is as if it were here', async t => {
  const backend = new ListingBackend()
  backend.lists.running.push(listed(1, { state: 'running', attempt: 1, progress: 5, payload: null }))
  for (let n = 100; n < 599; n++) backend.lists.waiting.push(listed(n, { label: n % 2 === 0 ? 'even' : 'odd' }))
  backend.lists.delayed.push(listed(3, { state: 'retrying', due: 5_000, attempt: 1, error: new Error('not yet') }), listed(4, { state: 'delayed', due: 6_000 }))
  for (let n = 1_000; n < 1_150; n++) backend.lists.failed.push(listed(n, { state: 'failed', label: 'fails', attempt: 3, error: new Error(`shard ${n} is read-only`) }))
  const { at, stream } = await serve(t, { backend }, { payload: true })
  const viewer = await stream()
  t.same((await viewer.first).backend, { name: 'stub', counts: null, error: null, pages: true })
  const told = await viewer.until(({ failures, waiting }) => failures.of !== 0 && waiting.of !== 0)
  t.same(told.totals, { running: 1, waiting: 499, later: 2, failed: 150 })
  t.same(told.backend, { name: 'stub', counts: { ...told.totals, completed: 0 }, error: null, pages: true })
  t.same(told.waiting, { groups: [{ name: 'even', count: 250 }, { name: 'odd', count: 249 }], of: 499, more: 0 })
  t.match(told.failures, { of: 150, more: 0, groups: [{ name: 'fails', error: 'Error: shard 1149 is read-only', count: 150, again: 150, dismissible: true, last: 1_149_000 }] })
  t.equal(told.failures.groups.length, 1)
  t.match(told.oldest, { id: idOf(100), why: 'It waits for a worker.' })
  t.match(told.retrying, { count: 1, next: { id: idOf(3), why: 'Error: not yet' } })
  t.match(told.longest, [{ id: idOf(1), state: 'running', progress: { percent: 5 }, stored: true, here: false, cancellable: false, why: 'A worker has it, or had it a moment ago.' }])
  t.match(await detailsAt(at, idOf(1_000)), { state: 'failed', payload: '{\n  "n": 1000\n}', added: 1, started: 2, ended: 3, errors: [{ error: 'Error: first' }, { error: 'Error: shard 1000 is read-only' }], again: true })
  t.match(await detailsAt(at, idOf(1)), { payload: '' })
})

test('each task of a group runs again once, though it fails again at once, by a clock that is behind', async t => {
  const backend = new ListingBackend()
  const { failed } = backend.lists
  for (let n = 0; n < 150; n++) failed.push(listed(n, { state: 'failed', label: 'fails', error: new Error('x'), since: Date.now() - 60_000 + n }))
  const retried: string[] = []
  backend.retry = async id => {
    retried.push(id)
    const [task] = failed.splice(failed.findIndex(task => task.id === id), 1)
    failed.push({ ...task!, since: Date.now() - 30_000 })
    return true
  }
  const { post, stream } = await serve(t, { backend })
  const { failures } = await (await stream()).until(({ failures }) => failures.of === 150)
  t.equal(await actOnGroup(async path => (await post(path)).body as GroupResult, `groups/${failures.groups[0]!.id}/run-again`), 150)
  t.equal(new Set(retried).size, 150)
  t.equal(retried.length, 150)
})

test('two pages act on a group at once, and another one removes tasks: none is passed over, none runs twice', async t => {
  const backend = new ListingBackend()
  const { failed } = backend.lists
  for (let n = 0; n < 3_000; n++) failed.push(listed(n, { state: 'failed', label: n % 3 === 0 ? 'other' : 'fails', error: new Error('x') }))
  const { retry } = backend
  backend.retry = async id => {
    await nextTurn()
    return retry(id)
  }
  const { post, stream } = await serve(t, { backend })
  const { failures } = await (await stream()).until(({ failures }) => failures.of !== 0)
  const path = `groups/${failures.groups.find(({ name }) => name === 'fails')!.id}/run-again`
  const dismissed = Array.from({ length: 300 }, (_, n) => idOf(3 * n))
  const [one, two] = await Promise.all([
    actOnGroup(async path => (await post(path)).body as GroupResult, path),
    actOnGroup(async path => (await post(path)).body as GroupResult, path),
    (async () => { for (const id of dismissed) await post(`tasks/${id}/dismiss`) })()
  ])
  t.equal(one + two, 2_000)
  t.equal(new Set(backend.retried).size, 2_000)
  t.same(failed.filter(({ label }) => label === 'fails'), [])
})

test('a list is read in parts, in either order, and searched by name, request and id', async t => {
  const backend = new ListingBackend()
  for (let n = 0; n < 230; n++) backend.lists.completed.push(listed(n, { state: 'completed', label: n === 7 ? 'Needle' : 'hay', requestId: n === 8 ? 'req-needle' : null }))
  const { at } = await serve(t, { backend }, { payload: true })
  const ids = async (query: Record<string, string>) => {
    const { tasks, next, looked } = await listPage(at, 'completed', query)
    return { first: tasks[0]?.id, count: tasks.length, next, looked }
  }
  t.same(await ids({ order: 'newest' }), { first: idOf(229), count: 50, next: 50, looked: 50 })
  t.same(await ids({ order: 'oldest', offset: '50' }), { first: idOf(50), count: 50, next: 100, looked: 50 })
  t.same(await ids({ offset: '200' }), { first: idOf(200), count: 30, next: null, looked: 30 })
  t.same(await ids({ offset: '900' }), { first: undefined, count: 0, next: null, looked: 0 })
  t.same((await listPage(at, 'completed', { search: 'NEEDLE' })).tasks.map(({ id }) => id), [idOf(7), idOf(8)])
  backend.lists.waiting.push(...['Mail', 'Mail', 'mail', 'Mail, resized', '""', '"'].map((label, n) => listed(300 + n, { label })))
  const waiting = async (search: string) => (await listPage(at, 'waiting', { search })).tasks.map(({ name }) => name)
  t.same(await waiting('"Mail"'), ['Mail', 'Mail'], 'in double quotes: the whole name')
  t.same(await waiting('"""'), ['"'])
  t.same(await waiting('""'), ['""'], 'no name in the quotes')
  t.same((await listPage(at, 'completed', { search: '"req-needle"' })).tasks.map(({ id }) => id), [idOf(8)], 'or the whole id of a request')
  t.same((await listPage(at, 'completed', { search: '"req-needl"' })).tasks, [])
  t.match(await listPage(at, 'waiting', { search: idOf(3).toUpperCase() }), { tasks: [{ id: idOf(3), state: 'completed' }], next: null })
  t.match(await listPage(at, 'waiting', { search: idOf(999) }), { tasks: [], note: 'No task with this id is known here.' })
  t.match(await detailsAt(at, idOf(3)), { state: 'completed', result: '{\n  "sum": 5\n}', errors: [] })
  for (const query of [{ offset: '-1' }, { offset: 'x' }, { order: 'x' }] as Array<Record<string, string>>) t.equal((await ids(query)).first, idOf(0), JSON.stringify(query))
  for (const id of [idOf(999), 'x']) t.equal(await detailsAt(at, id), null)
  t.equal((await fetch(`${at}/lists/nothing`, { headers: OWN_PAGE })).status, 404)
  t.match(await (await fetch(`${at}/lists/completed?search=a&search=b&group=a&group=b`, { headers: OWN_PAGE })).json(), { tasks: { length: 50 } })
})

test('a search looks at five thousand tasks at a time, and goes on from there', async t => {
  const backend = new ListingBackend()
  for (let n = 0; n < 5_100; n++) backend.lists.waiting.push(listed(n, { label: n >= 5_000 ? 'needle' : 'hay' }))
  const { at } = await serve(t, { backend })
  t.match(await listPage(at, 'waiting', { search: 'needle' }), { tasks: [], next: 5_000, looked: 5_000 })
  t.match(await listPage(at, 'waiting', { search: 'needle', offset: '5000' }), { tasks: { length: 50 }, next: 5_050, looked: 50 })
  const asked = backend.asked.length
  await listPage(at, 'waiting', { search: 'needle', offset: '5000' })
  t.equal(backend.asked.length, asked, 'what has just been asked for is not asked for again')
})

test('a group of failures is run again, or dismissed, whole; cancelled tasks are no failures', async t => {
  const backend = new ListingBackend()
  for (let n = 0; n < 2_300; n++) backend.lists.failed.push(listed(n, { state: 'failed', label: n % 2 === 0 ? 'even' : 'odd', error: new Error(`number ${n}`) }))
  backend.lists.failed.push(listed(5_000, { state: 'cancelled' }))
  const { at, post, stream } = await serve(t, { backend })
  const viewer = await stream()
  const { failures, totals } = await viewer.until(({ failures }) => failures.of !== 0)
  t.equal(failures.of, 1_999, 'the newest two thousand are looked at, one of which is no failure')
  t.equal(totals.failed, 2_300)
  t.same(failures.groups.map(({ name, count }) => [name, count]).sort(), [['even', 999], ['odd', 1_000]])
  const [even, odd] = ['even', 'odd'].map(name => failures.groups.find(group => group.name === name)!.id)
  t.equal((await listPage(at, 'failed', { order: 'newest' })).tasks[0]!.id, idOf(2_299), 'what was cancelled is in no list')
  const page = await listPage(at, 'failed', { group: even!, order: 'newest' })
  t.ok(page.tasks.length === 50 && page.tasks.every(({ name }) => name === 'even'))
  const first = (await post(`groups/${even}/run-again`)).body
  t.match(first, { done: 1_000, next: { offset: 1_000, acted: 1_000 } }, 'the oldest two thousand are looked at')
  t.match((await post(`groups/${even}/run-again?${queryOf(first.next!)}`)).body, { done: 150, next: null })
  t.equal(backend.retried.length, 1_150)
  t.same((await post(`groups/${odd}/dismiss?before=0&left=9&offset=0&acted=0`)).body, { done: 0, next: null }, 'what has failed since then stays')
  t.same((await post(`groups/${odd}/dismiss?before=x&left=9&offset=-1&acted=0`)).body, { done: 1_150, next: null }, 'a cursor without sense counts as none')
  t.same(backend.lists.failed.map(({ state }) => state), ['cancelled'])
  t.same((await post(`groups/${odd}/dismiss`)).body, { done: 0, next: null })
  const after = await viewer.until(({ totals, failures }) => totals.failed === 0 && failures.groups.length === 0)
  t.same(after.failures, { groups: [], of: 0, more: 0 })
})

test('one failed task is run again, or dismissed, and is gone from its group at once', async t => {
  const backend = new ListingBackend()
  for (let n = 0; n < 3; n++) backend.lists.failed.push(listed(n, { state: 'failed', label: 'fails', error: new Error('x') }))
  const { at, post, stream } = await serve(t, { backend })
  const viewer = await stream()
  await viewer.until(({ failures }) => failures.of === 3)
  t.same((await post(`tasks/${idOf(0)}/run-again`)).body, { done: true })
  t.match((await viewer.next()).failures.groups, [{ count: 2 }])
  t.same((await post(`tasks/${idOf(1)}/dismiss`)).body, { done: true })
  t.same((await post(`tasks/${idOf(1)}/dismiss`)).body, { done: false })
  t.same(backend.removed, [idOf(1)])
  t.same((await listPage(at, 'failed')).tasks.map(({ id }) => id), [idOf(2)])
  t.same((await post(`tasks/${idOf(2)}/run-again`)).body, { done: true })
  await viewer.until(({ totals, failures }) => totals.failed === 0 && failures.groups.length === 0)
})

test('a list that was asked for before something was done does not bring it back', async t => {
  const backend = new StubBackend()
  const failed = listed(1, { state: 'failed', error: new Error('x') })
  const lists: Array<(tasks: ListedTask[]) => void> = []
  backend.list = () => new Promise(resolve => { lists.push(tasks => resolve({ counts: { ...NONE, failed: tasks.length }, tasks })) })
  backend.retry = async () => true
  const { post, stream } = await serve(t, { backend })
  const viewer = await stream()
  t.equal(lists.length, 1)
  t.same((await post(`tasks/${idOf(1)}/run-again`)).body, { done: true })
  lists[0]!([failed])
  t.match(await viewer.next(), { failures: { groups: [] }, backend: { counts: null } })
  t.equal(lists.length, 2, 'it is asked anew')
  lists[1]!([])
  t.match(await viewer.until(({ backend }) => backend!.counts !== null), { failures: { groups: [] } })
})

test('a question that fails after something was done says nothing of what is now', async t => {
  const backend = new StubBackend()
  const asked: Array<{ resolve: (list: TaskList) => void, reject: (error: Error) => void }> = []
  backend.list = () => new Promise((resolve, reject) => { asked.push({ resolve, reject }) })
  backend.retry = async () => true
  const { post, stream } = await serve(t, { backend })
  const viewer = await stream()
  await viewer.first
  t.same((await post(`tasks/${idOf(1)}/run-again`)).body, { done: true })
  asked[0]!.reject(new Error('away'))
  t.match(await viewer.next(), { backend: { error: null } })
  asked[1]!.resolve({ counts: { ...NONE, waiting: 3 }, tasks: [] })
  t.match(await viewer.until(({ totals }) => totals.waiting === 3), { backend: { error: null } })
})

test('a task that runs elsewhere and tells no progress has been silent since its begin', async t => {
  const backend = new ListingBackend()
  const since = Date.now() - 60_000
  backend.lists.running.push(listed(1, { state: 'running', since }))
  const { stream } = await serve(t, { backend })
  t.match((await (await stream()).until(({ longest }) => longest.length === 1)).stuck, { count: 1, first: { id: idOf(1), silentSince: since } })
})

test('a task that runs elsewhere is stuck when its progress stands still, and not while it moves', async t => {
  const { later } = aheadClock(t)
  const backend = new ListingBackend()
  const since = Date.now()
  backend.lists.running.push(listed(1, { state: 'running', since, progress: 5 }), listed(2, { state: 'running', since: null }))
  const { at, stream } = await serve(t, { backend })
  const viewer = await stream()
  t.same((await viewer.until(({ longest }) => longest.length === 2)).stuck, { count: 0, first: null })
  later(40_000)
  const { stuck, longest } = await viewer.until(({ stuck }) => stuck.count !== 0)
  t.match(stuck, { count: 1, first: { id: idOf(1) } })
  t.same(longest.map(({ id }) => id), [idOf(1), idOf(2)], 'one of unknown age comes last')
  backend.lists.running[0] = listed(1, { state: 'running', since, progress: 6 })
  const moved = await viewer.until(({ stuck }) => stuck.count === 0)
  t.match(moved.longest, [{ id: idOf(1), since, progress: { percent: 6 } }, {}])
  t.ok(moved.longest[0]!.silentSince! >= since + 40_000)
  t.equal((await listPage(at, 'running')).tasks[0]!.silentSince, moved.longest[0]!.silentSince)
})

test('of what is here and what the backend has, the one that waits longest, the one that is next, and one group of failures', async t => {
  const end = signal()
  const backend = new ListingBackend()
  const fails = { label: 'fails', error: new Error('shard 7 is read-only') }
  backend.lists.failed.push(listed(1, { ...fails, state: 'failed' }), listed(2, { ...fails, state: 'failed' }))
  backend.lists.waiting.push(listed(3, { since: Date.now() + 3_600_000 }))
  backend.lists.delayed.push(...[50_000, 20_000, 90_000].map((due, n) => listed(10 + n, { state: 'retrying', due: Date.now() + due, attempt: 1 })))
  const { app, stream } = await serve(t, { backend, concurrency: 1 })
  t.teardown(() => end.resolve())
  app.backgroundTasks.add({ name: 'fails' }, () => { throw new Error('shard 1 is read-only') })
  app.backgroundTasks.add({ name: 'again', attempts: 2, backoff: 30_000 }, () => { throw new Error('not yet') })
  await settled(app, { failed: 1, retried: 1, pending: 1 })
  app.backgroundTasks.add(async () => { await end.promise })
  app.backgroundTasks.add({ name: 'own' }, () => {})
  const viewer = await stream()
  const told = await viewer.until(({ failures }) => failures.of === 3)
  t.match(told.failures.groups, [{ name: 'fails', count: 3, again: 3, dismissible: true }])
  t.ok(told.failures.groups[0]!.last! > 2_000, 'the newest of all')
  t.match(told.oldest, { name: 'own', here: true })
  t.match(told.retrying, { count: 4, next: { id: idOf(11) } })
  backend.lists.delayed.splice(1, 1)
  t.match((await viewer.until(({ retrying }) => retrying.count === 3)).retrying.next, { name: 'again', here: true })
  backend.lists.waiting[0] = listed(3)
  t.match((await viewer.until(({ oldest }) => oldest?.here === false)).oldest, { id: idOf(3) })
})

test('a task of the backend that runs here is opened by its id, without a list', async t => {
  const end = signal()
  const backend = new ListingBackend()
  const task = defineTask('task', async () => { await end.promise })
  const { app, at } = await serve(t, { tasks: [task], backend })
  t.teardown(() => end.resolve())
  const { read } = backend
  backend.read = async id => ({ ...await read(id) as TaskRecord, started: null })
  backend.lists.running.push(listed(1, { state: 'running' }))
  backend.deliver({ id: idOf(1), name: 'task', label: 'task 1' })
  await settled(app, { running: 1 })
  const { since, started, added } = await detailsAt(at, idOf(1))
  t.same({ started, added }, { started: since, added: 1 }, 'that it has begun, this process knows')
  const { id } = app.backgroundTasks.add({ delay: 60_000, name: 'own' }, () => {})
  t.match(await detailsAt(at, id), { name: 'own', state: 'delayed', stored: false })
})

test('what fails here and is in the list of the backend is one failure', async t => {
  const backend = new ListingBackend()
  const task = defineTask('task', async () => { throw new Error('x') })
  const { app, at, stream } = await serve(t, { tasks: [task], backend })
  await backend.deliver({ id: idOf(1), name: 'task', label: 'fails' })
  backend.lists.failed.push(listed(1, { state: 'failed', label: 'fails', error: new Error('x') }))
  await settled(app, { failed: 1 })
  const { totals, failures } = await (await stream()).until(({ failures }) => failures.of !== 0)
  t.equal(totals.failed, 1)
  t.match(failures, { of: 1, groups: [{ name: 'fails', count: 1 }] })
  t.match(await listPage(at, 'failed'), { tasks: [{ id: idOf(1), here: false }] })
})

test('a list that is asked for while the application closes is empty', async t => {
  const asked = signal()
  const admitted = signal()
  const backend = new ListingBackend()
  backend.lists.waiting.push(listed(1))
  const { app } = await serve(t, { backend }, {
    preHandler: async () => {
      asked.resolve()
      await admitted.promise
    }
  })
  const answer = app.inject({ url: '/tasks/lists/waiting', headers: OWN_PAGE })
  await asked.promise
  await app.close()
  admitted.resolve()
  t.match((await answer).json(), { tasks: [], next: null })
})

test('of what has been asked for, the last hundred answers are kept', async t => {
  const backend = new ListingBackend()
  for (let n = 0; n < 5; n++) backend.lists.waiting.push(listed(n))
  const { at } = await serve(t, { backend })
  const { now } = Date
  const frozen = now()
  Date.now = () => frozen
  t.teardown(() => { Date.now = now })
  const ask = async (search: number) => {
    const { tasks } = await listPage(at, 'waiting', { search: `task ${search}` })
    t.equal(tasks.length, search < 5 ? 1 : 0)
    return backend.asked.length
  }
  for (let n = 0; n < 100; n++) await ask(n)
  t.equal(await ask(0), 100, 'the first answer is kept')
  t.equal(await ask(100), 101)
  t.equal(await ask(100), 101)
  t.equal(await ask(0), 102, 'it was the oldest')
})

test('a backend that fails says so, and is asked again', async t => {
  const backend = new ListingBackend()
  backend.lists.waiting.push(listed(1))
  const { list } = backend
  const { at, stream } = await serve(t, { backend })
  const viewer = await stream()
  await viewer.until(({ totals }) => totals.waiting === 1)
  backend.list = async () => { throw new Error('away') }
  t.same((await viewer.until(({ backend }) => backend!.error !== null)).backend, { name: 'stub', counts: null, error: 'away', pages: true })
  backend.list = list
  await viewer.until(({ totals }) => totals.waiting === 1)
  const { page } = backend
  backend.page = async () => { throw new Error('away') }
  t.match(await (await fetch(`${at}/lists/waiting`, { headers: OWN_PAGE })).json(), { statusCode: 500, message: 'away' })
  backend.page = page
  t.match(await listPage(at, 'waiting'), { tasks: { length: 1 } })
})

test('a scan that fails is made again', async t => {
  const backend = new ListingBackend()
  for (let n = 0; n < 150; n++) backend.lists.failed.push(listed(n, { state: 'failed', error: new Error('x') }))
  const { page } = backend
  let broken = 1
  backend.page = async (...args) => {
    if (broken-- > 0) throw new Error('away')
    return page(...args)
  }
  const { stream } = await serve(t, { backend })
  const viewer = await stream()
  backend.lists.failed.push(listed(500, { state: 'failed', error: new Error('x') }))
  t.match((await viewer.until(({ failures }) => failures.of !== 0)).failures, { of: 151, groups: { length: 50 }, more: 101 })
})

test('a backend that gives its lists no further than the first tasks', async t => {
  const backend = new StubBackend()
  const tasks = [listed(1, { state: 'running' }), listed(2), listed(3, { state: 'failed', error: new Error('x') })]
  backend.list = async () => ({ counts: { ...NONE, running: 1, waiting: 150, failed: 1 }, tasks })
  const { at, stream, post } = await serve(t, { backend })
  t.match(await listPage(at, 'waiting'), { tasks: [], note: 'stub gives no list of its tasks.' }, 'before the first answer')
  const viewer = await stream()
  const { totals, failures } = await viewer.until(({ failures }) => failures.of !== 0)
  t.same(totals, { running: 1, waiting: 150, later: 0, failed: 1 })
  t.match(failures.groups, [{ count: 1, again: 0, dismissible: false }])
  t.match(await listPage(at, 'waiting', { search: '', offset: '0' }), { tasks: { length: 1 } })
  t.match(await listPage(at, 'waiting', { order: 'newest' }), { note: 'stub gives the first 1 of them only.' })
  t.match(await listPage(at, 'waiting', { search: 'task' }), { tasks: [{ id: idOf(2) }], note: 'stub gives the first 1 of them only, and no others are searched.' })
  t.match(await listPage(at, 'running'), { tasks: [{ id: idOf(1) }], note: '' })
  t.match(await listPage(at, 'completed'), { tasks: [], note: 'stub gives no list of completed tasks.' })
  const { id } = failures.groups[0]!
  t.same((await post(`groups/${id}/run-again`)).body, { done: 0, next: null })
  t.same((await post(`groups/${id}/dismiss`)).body, { done: 0, next: null })
  t.same((await post(`tasks/${idOf(3)}/dismiss`)).body, { done: false })
  backend.retry = async () => true
  t.same((await post(`groups/${id}/run-again`)).body, { done: 1, next: null })
})

test('a backend that gives no list: what fails here is shown', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', async ({ n }: { n: number }) => { throw new Error(`number ${n}`) })
  const { app, at, stream, post } = await serve(t, { tasks: [task], backend })
  for (const n of [1, 1, 2]) await backend.deliver({ id: idOf(n), name: 'task', payload: `{"n":${n}}` })
  const viewer = await stream()
  const { totals, failures, backend: told } = await viewer.first
  t.same(told, { name: 'stub', counts: null, error: null, pages: false })
  t.equal(totals.failed, 2, 'a delivery that fails once more is the same task')
  t.match(failures.groups, [{ count: 2, again: 0, error: 'Error: number 2' }])
  t.match(await listPage(at, 'failed'), { tasks: [{ again: false, stored: true }, {}], note: 'stub gives no list of its tasks.' })
  t.same((await post(`tasks/${idOf(1)}/run-again`)).body, { done: false })
  const { id } = failures.groups[0]!
  t.same((await post(`groups/${id}/run-again`)).body, { done: 0, next: null })
  const retried: string[] = []
  backend.retry = async id => retried.push(id) !== 0
  t.match((await viewer.next()).failures.groups, [{ again: 2 }])
  t.same((await post(`groups/${id}/run-again`)).body, { done: 2, next: null })
  t.same(retried.sort(), [idOf(1), idOf(2)])
  t.equal((await viewer.until(({ totals }) => totals.failed === 0)).failures.of, 0)
  await settled(app, { failed: 3 })
})

test('what this process has of the backend counts once, and is shown with what this process knows of it', async t => {
  const end = signal()
  const backend = new ListingBackend()
  const task = defineTask('task', async (_payload: undefined, ctx) => {
    ctx.progress({ page: 1, pages: 4 })
    await end.promise
  })
  const { app, at, stream } = await serve(t, { tasks: [task], backend, concurrency: 1 })
  t.teardown(() => end.resolve())
  for (const n of [1, 2]) {
    backend.lists.running.push(listed(n, { state: 'running' }))
    backend.deliver({ id: idOf(n), name: 'task', label: `task ${n}` })
  }
  app.backgroundTasks.add(function own () {})
  await until('it runs', () => app.backgroundTasks.stats().running === 1)
  const viewer = await stream()
  const told = await viewer.until(({ backend }) => backend!.counts !== null)
  t.same(told.totals, { running: 2, waiting: 1, later: 0, failed: 0 })
  t.same(told.places, { limit: 1, taken: 1, queued: 2 })
  const { tasks } = await listPage(at, 'running')
  t.match(tasks, [{ id: idOf(1), here: true, stored: true, cancellable: true, progress: { percent: 25 } }, { id: idOf(2), here: true, state: 'waiting', why: 'The only place is taken.' }])
  t.match(await listPage(at, 'waiting'), { tasks: [{ name: 'own' }] })
  t.match(await detailsAt(at, idOf(1)), { here: true, added: 1, progress: { percent: 25 } })
  backend.read = async () => { throw new Error('away') }
  t.match(await detailsAt(at, idOf(2)), { here: true, added: null })
})

test('what is cancelled in a backend; what is on its way there; what is no id', async t => {
  const backend = new ListingBackend()
  const task = defineTask('task', async () => {})
  backend.lists.waiting.push(listed(2))
  const { url, at, post } = await serve(t, { tasks: [task], backend }, {}, app => {
    app.post('/add', async request => {
      request.backgroundTasks.add(task)
      return 'x'
    })
  })
  t.same((await post(`tasks/${idOf(2)}/cancel`)).body, { done: true })
  t.same(backend.cancelled, [idOf(2)])
  t.equal((await post('tasks/../../etc/cancel')).status, 404)
  t.same((await post('tasks/no-id/cancel')).body, { done: false }, 'the backend is not asked for what is no id')
  const store = signal<string[]>()
  backend.onStore = () => store.promise
  const answered = fetch(`${url}/add`, { method: 'POST' })
  const own = await until('it is on its way', async () => (await listPage(at, 'waiting', { search: 'task', order: 'oldest', offset: '0' })).tasks.find(({ stored }) => !stored))
  t.match(own, { name: 'task', why: 'It is on its way to stub.' })
  store.resolve([own.id])
  t.equal((await answered).status, 200)
})

test('a process that is paused takes no tasks of the backend, until it is resumed', async t => {
  const backend = new ListingBackend()
  const { post, stream } = await serve(t, { backend })
  const viewer = await stream()
  t.same((await viewer.first).worker, { paused: false, pausable: true })
  t.same((await post('worker/pause')).body, { done: true })
  t.equal(backend.pauses, 1)
  t.same((await viewer.until(({ worker }) => worker!.paused)).worker, { paused: true, pausable: true })
  t.same((await post('worker/resume')).body, { done: true })
  t.equal(backend.resumes, 1)
  t.same((await viewer.until(({ worker }) => !worker!.paused)).worker, { paused: false, pausable: true })
})

test('without a worker, or a backend that can be resumed, there is nothing to pause', async t => {
  const { post } = await serve(t, {})
  for (const action of ['pause', 'resume']) t.same((await post(`worker/${action}`)).body, { done: false })
  const stub = new StubBackend()
  const other = await serve(t, { backend: stub, worker: false })
  t.equal((await (await other.stream()).first).worker, null)
  const third = await serve(t, { backend: new StubBackend() })
  t.same((await (await third.stream()).first).worker, { paused: false, pausable: false })
  for (const action of ['pause', 'resume']) t.same((await third.post(`worker/${action}`)).body, { done: false })
})

test('a backend without records: the page of a task has what find knows', async t => {
  const backend = new StubBackend()
  const id = idOf(1)
  backend.infos.set(id, { id, name: 'task', state: 'completed', attempts: 2, progress: undefined, result: { sum: 5 }, error: undefined })
  const { at } = await serve(t, { backend, worker: false })
  t.match(await detailsAt(at, id), { state: 'completed', name: 'task', added: null, why: /are not kept/ })
})
