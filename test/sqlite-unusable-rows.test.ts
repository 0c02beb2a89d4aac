import { test } from 'tap'
import { defineTask } from '../index'
import { sqlite } from '../lib/backends/sqlite'
import { dashboard } from '../lib/dashboard'
import { until } from './support/until'
import { listPage, openStream } from './support/dashboard'
import { createApp, listen } from './support/server'
import { newFile, noSqlite, rawConnection } from './support/sqlite'
import { storedTask } from './support/stub-backend'

/* A row may have been written by another program, or by hand. */

const idOf = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`

/** Contents of the column `task`, each with the message. */
const UNUSABLE: Array<[(id: string) => string, RegExp]> = [
  [() => 'not JSON', /it is not JSON/],
  [() => 'null', /it is null/],
  [() => '[]', /its id is undefined/],
  [() => '"text"', /it is 'text'/],
  [() => JSON.stringify(storedTask({ name: 'task', id: idOf(99) })), /its id is '.*99'/],
  ...([
    ['name', 5], ['name', undefined], ['label', null], ['payload', { n: 1 }], ['requestId', 5], ['attempts', '3'], ['attempts', -1], ['backoff', {}], ['backoff', undefined],
    ['backoff', { type: 'fixed', delay: 5 }], ['delay', null], ['timeout', null], ['timeout', -1], ['dedupe', 5], ['carrier', 'x']
  ] as const).map(([field, value]) => [
    (id: string) => JSON.stringify({ ...storedTask({ name: 'task', id }), [field]: value }), new RegExp(`its field '${field}' is `)
  ] as [(id: string) => string, RegExp])
]

test('a row that cannot be used fails, which is logged with its id; the others run, and the dashboard shows all of them', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const ran: number[] = []
  const task = defineTask('task', async (n: number) => { ran.push(n) })
  // The table is made, and nothing runs yet.
  const web = await createApp(t, { tasks: [task], backend: sqlite({ file }), worker: false })
  await web.app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(web.app)
  const other = rawConnection(file)
  t.teardown(() => other.close())
  const insert = other.prepare("INSERT INTO tasks (id, task, state, due) VALUES (?, ?, 'pending', ?)")
  UNUSABLE.forEach(([text], n) => insert.run(idOf(n), text(idOf(n)), -1e15 + n))
  const viewer = await openStream(t, `${url}/tasks/events`)
  const ids = UNUSABLE.map((_, n) => idOf(n))
  await viewer.until(({ totals }) => totals.waiting === ids.length)
  t.same((await listPage(`${url}/tasks`, 'waiting')).tasks.map(({ id }) => id).sort(), ids, 'they are shown while they wait')
  t.match(await web.app.backgroundTasks.find(idOf(0)), { id: idOf(0), name: '', state: 'pending' })

  const { app, log } = await createApp(t, { tasks: [task], backend: sqlite({ file, pollInterval: 10 }) })
  await app.ready()
  t.equal(await app.backgroundTasks.add(task, 1).settled(), 'completed', 'behind all of them')
  for (const [n, [, reason]] of UNUSABLE.entries()) {
    const { state, error } = (await app.backgroundTasks.find(idOf(n)))!
    t.match({ state, error }, { state: 'failed', error: { message: reason } }, String(reason))
    const lines = log.filter(({ task }) => task?.id === idOf(n))
    t.match(lines, [{ level: 50, msg: 'background task failed: what is stored of it cannot be used', err: { message: reason } }], 'it is said once')
  }
  t.same(log.filter(({ msg }) => msg.startsWith('background task failed')).map(({ task }) => task!.id), ids, 'in their order')
  t.same(ran, [1])
  await viewer.until(({ totals, failures }) => totals.failed === ids.length && failures.of === ids.length)
  t.same((await listPage(`${url}/tasks`, 'failed')).tasks.map(({ id }) => id).sort(), ids, 'they are shown when they have failed')
})

test('what else a row has may be broken, too', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const ran: string[] = []
  const task = defineTask('task', async (name: string) => { ran.push(name) })
  const { app, log } = await createApp(t, { tasks: [task], backend: sqlite({ file, pollInterval: 10, maxCrashes: 0 }) })
  await app.ready()
  const other = rawConnection(file)
  t.teardown(() => other.close())
  let ids = 0
  const insert = (more: Partial<ReturnType<typeof storedTask>>, columns: Record<string, string | number>) => {
    const row: Record<string, string | number> = { id: idOf(++ids), state: 'pending', due: 0, ...columns }
    row.task ??= JSON.stringify(storedTask({ name: 'task', id: row.id as string, ...more }))
    const values = Object.entries(row).map(([, value]) => typeof value === 'number' ? String(value) : `'${value}'`)
    other.exec(`INSERT INTO tasks (${Object.keys(row)}) VALUES (${values})`)
    return row.id as string
  }
  const endOf = (id: string) => until(`the end of ${id}`, async () => {
    const info = await app.backgroundTasks.find(id)
    return info!.state !== 'pending' && info!.state !== 'running' && info
  })

  const parked = insert({ payload: '"parked"' }, { due: '9223372036854775807' })
  t.match(await endOf(insert({ payload: '"large numbers"' }, { attempts: '9007199254740993', deliveries: '9007199254740993' })), { state: 'completed' })
  t.match(await endOf(insert({ payload: '"long timeout"', timeout: 1e12 }, {})), { state: 'completed' })
  t.match(await endOf(insert({ payload: 'not JSON' }, {})), { state: 'failed', error: { message: /is not valid JSON/ } })
  t.match(await endOf(insert({}, { state: 'failed', settled_at: 1, error: 'text' })), { error: { message: 'text' } })
  t.match(await endOf(insert({}, { state: 'failed', settled_at: 1, error: '{"message":5,"stack":5}' })), { error: { message: /5/, stack: /Error/ } })
  t.match(await endOf(insert({}, { state: 'completed', settled_at: '9223372036854775807', result: 'text', progress: 'text' })), { result: undefined, progress: undefined })
  t.match(await endOf(insert({}, { task: 'not JSON', state: 'running', lease_until: 1 })), { state: 'failed', error: { message: /more than 0 workers/ } })
  t.match((await app.backgroundTasks.find(parked))!, { state: 'pending' })
  t.same(ran, ['large numbers', 'long timeout'])
  t.notOk(log.some(({ msg }) => msg.startsWith('SQLite: the file could not be')), 'no trouble with the file')
})
