import { test } from 'tap'
import { defineTask } from '../index'
import { dashboard } from '../lib/dashboard'
import { detailsAt, openStream, OWN_PAGE, tasksAt } from './support/dashboard'
import { begun, createApp, listen, settled } from './support/server'
import { moduleFile } from './support/threads'

/* What the dashboard tells of tasks that run on threads. */

const WAITS = `
  import { once } from 'node:events'
  export default async (payload, { signal, progress }) => {
    progress('begun')
    await once(signal, 'abort')
  }`

test('a task that waits for a thread waits, although it has its place among those that run', async t => {
  const waits = defineTask('waits', moduleFile(t, WAITS))
  const { app } = await createApp(t, { tasks: [waits], threads: { max: 1 }, concurrency: 2, closeTimeout: 100 })
  await app.register(dashboard, { prefix: '/tasks' })
  const { url } = await listen(app)
  const running = app.backgroundTasks.add(waits)
  await begun(app, running.id)
  app.backgroundTasks.add({ name: 'queued' }, waits)
  await settled(app, { running: 2 })
  const { totals, places } = await (await openStream(t, `${url}/tasks/events`)).first
  const tasks = await tasksAt(`${url}/tasks`)
  t.match(tasks.find(({ name }) => name === 'waits'), { state: 'running' })
  t.match(tasks.find(({ name }) => name === 'queued'), { state: 'waiting', attempt: 0, why: 'It waits for a free thread.', cancellable: true })
  t.match(totals, { running: 1, waiting: 1 })
  t.equal(places.taken, 2)
})

test('what a thread was given instead of a copy is not there to be run again; a copy is', async t => {
  const fail = defineTask('fail', moduleFile(t, "export default async ({ image }) => { throw new Error(image.length + ' bytes') }"), {
    local: true,
    transfer: ({ image }: { image: Uint8Array }) => image[0] === 1 ? [image] : []
  })
  const { app } = await createApp(t, { tasks: [fail], threads: { max: 1 } })
  await app.register(dashboard, { prefix: '/tasks', payload: true })
  const { url } = await listen(app)
  app.backgroundTasks.add({ name: 'moved' }, fail, { image: new Uint8Array(3).fill(1) })
  app.backgroundTasks.add({ name: 'copied' }, fail, { image: new Uint8Array(3).fill(2) })
  await settled(app, { failed: 2 })
  const failed = await tasksAt(`${url}/tasks`)
  const of = (name: string) => failed.find(failure => failure.name === name)!
  t.match(await detailsAt(`${url}/tasks`, of('moved').id), { error: 'Error: 3 bytes', again: false, payload: '{ image: Uint8Array(0) [] }', why: /its payload has moved/ })
  t.match(await detailsAt(`${url}/tasks`, of('copied').id), { error: 'Error: 3 bytes', again: true, payload: '{ image: Uint8Array(3) [ 2, 2, 2 ] }', why: '' })
  const runAgain = async (id: string) => (await fetch(`${url}/tasks/tasks/${id}/run-again`, { method: 'POST', headers: OWN_PAGE })).json()
  t.same(await runAgain(of('moved').id), { done: false })
  t.match(await runAgain(of('copied').id), { done: true, id: String })
  await settled(app, { failed: 3 })
})
