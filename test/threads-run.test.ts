import { test } from 'tap'
import { pathToFileURL } from 'node:url'
import { threadId } from 'node:worker_threads'
import { defineTask } from '../index'
import { createApp, listen, settled } from './support/server'
import { moduleFile } from './support/threads'

const WHERE = "import { threadId } from 'node:worker_threads'\nexport default async payload => ({ threadId, payload })\n"

test('a task that is defined by its file runs on another thread, and its result comes back', async t => {
  const file = moduleFile(t, WHERE)
  for (const location of [pathToFileURL(file), file, pathToFileURL(file).href]) {
    const task = defineTask<{ n: number }, { threadId: number }>('where', location)
    const { app } = await createApp(t, { tasks: [task] })
    let id = ''
    app.get('/', async request => {
      id = request.backgroundTasks.add(task, { n: 1 }).id
      return 'x'
    })
    const { url } = await listen(app)
    await fetch(url)
    await settled(app, { completed: 1 })
    const { result } = await app.backgroundTasks.find(id) as { result: { threadId: number } }
    t.match(result, { payload: { n: 1 } })
    t.not(result.threadId, threadId)
  }
})
