import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, signal, turns } from './support/server'
import { StubBackend } from './support/stub-backend'
import { until } from './support/until'

// A write with dedupe ids may wait for a transaction of the user's. On a backend with several writes it holds up no others.

for (const [writes, expected] of [
  [2, [['a'], ['-1'], ['-2', '-3'], ['b', 'c']]],
  [1, [['a'], ['-1', 'b', '-2', 'c', '-3']]]
] as const) {
  test(`writes with dedupe ids, beside others: ${writes} at a time`, async t => {
    const backend = new StubBackend()
    backend.writes = writes
    const task = defineTask('task', (_name: string) => {})
    const { app } = await createApp(t, { backend, tasks: [task] })
    await app.ready()
    const held = signal()
    backend.onStore = async tasks => {
      if (tasks[0]!.dedupe === 'a') await held.promise
      return tasks.map(({ id }) => id)
    }
    const add = (name: string) => app.backgroundTasks.add(name.startsWith('-') ? { name } : { name, dedupe: name }, task, name)
    const written = () => backend.written.map(tasks => tasks.map(({ label }) => label))
    add('a')
    await until('the first write', () => written().length === 1)
    for (const name of ['-1', 'b']) add(name)
    await turns()
    for (const name of ['-2', 'c', '-3']) add(name)
    await turns()
    t.same(written(), writes === 1 ? [['a']] : expected.slice(0, 3))
    held.resolve()
    await until('all are written', () => written().flat().length === 6)
    t.same(written(), expected)
  })
}
