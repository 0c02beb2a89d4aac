import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled } from './support/server'
import { StubBackend } from './support/stub-backend'

// Whoever reads of a failure in the log can look the task up by the id there, though nobody has read `handle.id`.

test('a function and a defined task that have failed', async t => {
  const defined = defineTask('defined', async () => { throw new Error('no') }, { attempts: 2 })
  const { app, log } = await createApp(t, { tasks: [defined] })
  app.get('/', async request => {
    request.backgroundTasks.add(async function plain () { throw new Error('never') })
    return 'x'
  })
  await app.inject('/')
  await settled(app, { failed: 1 })
  app.backgroundTasks.add(defined)
  await settled(app, { failed: 2, retried: 1 })
  const ids = log.filter(({ msg }) => msg === 'background task failed').map(({ task }) => task!.id)
  t.match(await Promise.all(ids.map(id => app.backgroundTasks.find(id))), [
    { name: 'plain', state: 'failed', attempts: 1, error: { message: 'never' } },
    { name: 'defined', state: 'failed', attempts: 2, error: { message: 'no' } }
  ])
})

test('of these the last thousand are known', async t => {
  const { app, log } = await createApp(t)
  const fail = () => { throw new Error('no') }
  for (let i = 0; i < 1_001; i++) app.backgroundTasks.add(fail)
  await settled(app, { failed: 1_001 })
  const ids = log.filter(({ msg }) => msg === 'background task failed').map(({ task }) => task!.id)
  t.same(await Promise.all(ids.slice(0, 2).map(async id => (await app.backgroundTasks.find(id))?.state)), [undefined, 'failed'])
})

test('a task whose write was answered too late is what the backend says it is', async t => {
  const backend = new StubBackend()
  const work = defineTask('work', async () => {})
  const { app } = await createApp(t, { tasks: [work], backend })
  await app.ready()
  backend.onStore = async () => { throw new Error('the connection was lost') }
  const { id } = app.backgroundTasks.add(work)
  await settled(app, { failed: 1 })
  backend.onFind = async () => ({ id, name: 'work', state: 'completed', attempts: 1, progress: undefined, result: 5, error: undefined })
  t.match(await app.backgroundTasks.find(id), { state: 'completed', result: 5 })
  backend.onFind = async () => { throw new Error('the connection was lost') }
  t.match(await app.backgroundTasks.find(id), { state: 'failed' })
})

test('a task that could not be stored; of a delivery the backend tells', async t => {
  const backend = new StubBackend()
  const work = defineTask('work', async () => { throw new Error('never') })
  const { app, log } = await createApp(t, { tasks: [work], backend })
  await app.ready()
  backend.onStore = async () => { throw new Error('the disk is full') }
  app.backgroundTasks.add(work)
  await settled(app, { failed: 1 })
  await backend.deliver({ name: 'work' })
  await settled(app, { failed: 2 })
  const [refused, delivered] = log.filter(({ msg }) => msg === 'background task failed').map(({ task }) => task!.id) as [string, string]
  t.match(await app.backgroundTasks.find(refused), { name: 'work', state: 'failed', error: { code: 'FST_BGT_STORE_FAILED' } })
  t.equal(await app.backgroundTasks.find(delivered), null, 'this one knows nothing of it')
})
