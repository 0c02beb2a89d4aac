import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { moduleFile } from './support/threads'

test('a line that the logger cannot write is a process warning, and the task goes on', async t => {
  const task = defineTask<string>('task', moduleFile(t, `
    import { existsSync } from 'node:fs'
    import { setTimeout as sleep } from 'node:timers/promises'
    export default async (marker, { log }) => {
      log.info({ res: null }, 'a response that is none')
      // Either while it runs, or in one go with its end.
      while (marker !== null && !existsSync(marker)) await sleep(5)
    }`), { attempts: 2 })
  const { app } = await createApp(t, { tasks: [task] })
  for (const marker of [`${moduleFile(t, '')}.txt`, null]) {
    const warned = once(process, 'warning')
    const handle = app.backgroundTasks.add(task, marker as string)
    const [warning] = await warned
    t.match(warning, {
      name: 'FastifyBackgroundTasksWarning', code: 'FST_BGT_LOG_FAILED', message: "a line of the background task 'task'; logging it failed", detail: /TypeError/
    })
    if (marker !== null) writeFileSync(marker, '')
    t.equal(await handle.settled(), 'completed')
  }
  await settled(app, { completed: 2 })
})

test('progress that a backend throws for is logged, and the task goes on', async t => {
  const task = defineTask('task', moduleFile(t, 'export default (payload, ctx) => { ctx.progress(1); return 2 }'))
  const backend = new StubBackend()
  const { app, log } = await createApp(t, { tasks: [task], backend })
  await app.ready()
  const end = await backend.deliver({ name: 'task' }, { progress: () => { throw new Error('no connection') } })
  t.match(end, { state: 'completed', result: 2 })
  await turns()
  t.match(log.find(({ msg }) => msg === 'progress of a background task could not be passed on'), { level: 50, err: { message: 'no connection' }, task: { name: 'task', attempt: 1 } })
})
