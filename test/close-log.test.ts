import { pbkdf2 } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, stat } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'

// The logger writes by Node's pool of threads, one piece at a time. A process that exits with a piece under way writes the
// rest from its main thread, and nobody knows which of the two is first.

/** As many threads as the pool has: nothing is written while all of them work. */
const THREADS = Number(process.env.UV_THREADPOOL_SIZE ?? 4)

test('when the application has closed its log is written, and the account of the tasks comes last', async t => {
  const file = join(t.testdir(), 'log')
  const { app } = await createApp(t, {}, { logger: { file } })
  await app.ready()
  app.backgroundTasks.add(async () => {
    await turns(1)
    for (let i = 0; i < THREADS; i++) pbkdf2('', '', 2_000, 64, 'sha512', () => {})
    app.log.info('said by a task')
    throw new Error('boom')
  })
  await app.close()
  const messages = readFileSync(file, 'utf8').trim().split('\n').map(line => JSON.parse(line).msg as string)
  t.same(messages, ['said by a task', 'background task failed', 'background tasks drained'])
})

test('an application whose files are never at rest closes all the same', async t => {
  const { app } = await createApp(t)
  await app.backgroundTasks.add(() => {}).settled()
  let isClosed = false
  const again = () => { if (!isClosed) stat(__filename, again) }
  again()
  await app.close()
  isClosed = true
  t.match(app.backgroundTasks.stats(), { completed: 1 })
})

test('a logger that fails does not keep the application from closing', async t => {
  const { app } = await createApp(t, {}, { logger: { stream: { write (line) { if (line.includes('drained')) throw new Error('the disk is full') } } } })
  await app.backgroundTasks.add(() => {}).settled()
  const warned = once(process, 'warning')
  await app.close()
  t.match(await warned, [{ code: 'FST_BGT_LOG_FAILED', message: 'background tasks drained; logging it failed', detail: /the disk is full/ }])
})

test('nor does one that fails sooner: the close takes all its steps, and a failed start ends no process', async t => {
  const backend = new StubBackend()
  const stream = { write (line: string) { if (line.includes('could not be closed')) throw new Error('the disk is full') } }
  const { app } = await createApp(t, { backend }, { logger: { stream } })
  backend.onPause = async () => { throw new Error('down') }
  await app.ready()
  const gate = signal()
  const task = app.backgroundTasks.add(async () => { await gate.promise })
  const closed = app.close()
  await turns(20)
  gate.resolve()
  await closed
  t.equal(task.state, 'completed')
  t.equal(backend.closes, 1)
  const { app: second } = await createApp(t, { backend }, { logger: { stream } })
  backend.onStart = backend.onClose = async () => { throw new Error('down') }
  const warned = once(process, 'warning')
  await t.rejects(async () => { await second.ready() }, { code: 'FST_BGT_BACKEND_FAILED' })
  t.match(await warned, [{ code: 'FST_BGT_LOG_FAILED', message: 'stub could not be closed; logging it failed' }])
})

test('a task is cancelled in its backend, whatever the logger does', async t => {
  const backend = new StubBackend()
  const task = defineTask('task', async () => {})
  const stream = { write (line: string) { if (line.includes('cancelled in the backend')) throw new Error('the disk is full') } }
  const { app } = await createApp(t, { backend, tasks: [task], worker: false }, { logger: { level: 'debug', stream } })
  await app.ready()
  const handle = app.backgroundTasks.add(task)
  await app.backgroundTasks.flush()
  const warned = once(process, 'warning')
  t.equal(await handle.cancel(), true)
  t.match(await warned, [{ code: 'FST_BGT_LOG_FAILED' }])
})
