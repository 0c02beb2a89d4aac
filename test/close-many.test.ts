import Fastify from 'fastify'
import { test, type Test } from 'tap'
import backgroundTasks from '../index'
import { block, createApp, settled, signal, turns } from './support/server'

const ONE = 'background task did not end before the application closed'
const MORE = 'more background tasks did not end before the application closed'

/** Collects the warnings of the process, and keeps Node from writing hundreds of them. */
function collectWarnings (t: Test): Array<{ code?: string, message: string }> {
  const warnings: Error[] = []
  const listeners = process.listeners('warning')
  process.removeAllListeners('warning')
  process.on('warning', warning => { warnings.push(warning) })
  t.teardown(() => {
    process.removeAllListeners('warning')
    for (const listener of listeners) process.on('warning', listener)
  })
  return warnings
}

test('of many unfinished tasks a hundred are reported, running ones first, and the number of the others; each is given to onError', async t => {
  const told: string[] = []
  const { app, log } = await createApp(t, { closeTimeout: 50, onError: (_error, task) => { told.push(task.name) } })
  await app.ready()
  const gate = signal()
  for (let i = 0; i < 120; i++) app.backgroundTasks.add({ name: `delayed ${i}`, delay: 60_000 }, () => {})
  for (let i = 0; i < 20; i++) app.backgroundTasks.add({ name: `running ${i}` }, async () => { await gate.promise })
  for (let i = 0; i < 60; i++) app.backgroundTasks.add({ name: `delayed ${120 + i}`, delay: 60_000 }, () => {})
  await settled(app, { running: 20, pending: 180 })
  await app.close()
  const lines = log.filter(({ level }) => level === 50)
  t.equal(lines.filter(({ msg }) => msg === ONE).length, 100)
  t.same(lines.filter(({ task }) => task?.name.startsWith('running')).map(({ task }) => task!.state), Array(20).fill('running'))
  t.match(lines[100], { msg: MORE, count: 100 })
  t.equal(lines.length, 101)
  t.equal(new Set(told).size, 200)
  t.match(app.backgroundTasks.stats(), { accepted: 200, failed: 20, dropped: 180, abandoned: 20 })
  gate.resolve()
})

test('without a logger, too', async t => {
  const warnings = collectWarnings(t)
  const app = Fastify()
  await app.register(backgroundTasks, { closeTimeout: 50 })
  await app.ready()
  for (let i = 0; i < 103; i++) app.backgroundTasks.add({ delay: 60_000 }, () => {})
  await app.close()
  t.equal(warnings.length, 101)
  t.match(warnings.at(-1), { code: 'FST_BGT_CLOSE_TIMEOUT', message: `${MORE}: 3` })
})

test('of many tasks that fail by their abort a hundred are reported, too, and the number of the others', async t => {
  const told: string[] = []
  const { app, log } = await createApp(t, { closeTimeout: 50, onError: (_error, task) => { told.push(task.name) } })
  await app.ready()
  for (let i = 0; i < 103; i++) {
    app.backgroundTasks.add({ name: `task ${i}`, signal: true }, signal => new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => { reject(new Error('stopped', { cause: signal.reason })) })
    }))
  }
  await settled(app, { running: 103 })
  await app.close()
  const lines = log.filter(({ level }) => level === 50)
  t.equal(lines.filter(({ msg }) => msg === 'background task failed').length, 100)
  t.match(lines[100], { msg: 'more background tasks failed while the application closed', count: 3 })
  t.equal(lines.length, 101)
  t.equal(new Set(told).size, 103)
  t.match(app.backgroundTasks.stats(), { failed: 103, abandoned: 0 })
})

test('of tasks that fail then, without a logger, too', async t => {
  const warnings = collectWarnings(t)
  const app = Fastify()
  await app.register(backgroundTasks, { closeTimeout: 50 })
  await app.ready()
  for (let i = 0; i < 103; i++) {
    app.backgroundTasks.add({ signal: true }, signal => new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => { reject(new Error('stopped', { cause: signal.reason })) })
    }))
  }
  await settled(app, { running: 103 })
  await app.close()
  await turns()
  t.equal(warnings.length, 101)
  t.match(warnings.at(-1), { code: 'FST_BGT_TASK_FAILED', message: 'more background tasks failed while the application closed: 3' })
})

test('the event loop turns while many tasks are aborted and abandoned', async t => {
  let given = 0
  const { app } = await createApp(t, {
    closeTimeout: 50,
    onError: () => {
      given++
      block(1)
    }
  })
  await app.ready()
  let told = 0
  let loops = 0
  let isClosed = false
  const turnsWhile = { telling: 0, giving: 0 }
  for (let i = 0; i < 500; i++) {
    app.backgroundTasks.add({ signal: true }, signal => new Promise(() => {
      signal.addEventListener('abort', () => {
        told++
        block(1)
      })
    }))
  }
  await settled(app, { running: 500 })
  const turn = () => {
    loops++
    if (told > 0 && told < 500) turnsWhile.telling++
    if (given > 0 && given < 500) turnsWhile.giving++
    if (!isClosed) setImmediate(turn)
  }
  turn()
  await app.close()
  isClosed = true
  t.same([told, given], [500, 500])
  t.ok(turnsWhile.telling >= 10 && turnsWhile.giving >= 10, JSON.stringify({ ...turnsWhile, loops }))
})

test('a task that ends while others are abandoned is not reported', async t => {
  const gate = signal()
  const { app, log } = await createApp(t, { closeTimeout: 50, onError: () => { block(20) } })
  await app.ready()
  for (let i = 0; i < 3; i++) app.backgroundTasks.add({ name: 'late' }, async () => { await gate.promise })
  await settled(app, { running: 3 })
  const onTurn = () => {
    if (log.some(({ msg }) => msg === ONE)) gate.resolve()
    else setImmediate(onTurn)
  }
  onTurn()
  await app.close()
  t.match(app.backgroundTasks.stats(), { completed: 2, failed: 1, abandoned: 0 })
  t.equal(log.filter(({ msg }) => msg === ONE).length, 1)
})
