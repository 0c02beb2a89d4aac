import { inspect } from 'node:util'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled, signal } from './support/server'

/* What `find` has given out is the caller's: whatever he does with it, others find what the task has said. */

test('what is found can be changed, and others find what the task has said', async t => {
  const { app } = await createApp(t)
  const end = signal()
  const result: Record<string, unknown> = { user: { name: 'ada', tags: ['a'] }, ...JSON.parse('{"__proto__":{"x":1}}') as object, none: undefined }
  result.self = result
  const task = app.backgroundTasks.add({ signal: true }, async function secretive (_signal) {
    await end.promise
    return result
  })
  const { id } = task
  await settled(app, { running: 1 })
  const running = await app.backgroundTasks.find(id)
  running!.state = 'failed'
  t.match(await app.backgroundTasks.find(id), { state: 'running' })
  end.resolve()
  await task.settled()
  for (let i = 0; i < 2; i++) {
    const info = await app.backgroundTasks.find(id)
    t.match(info, { id, name: 'secretive', state: 'completed', attempts: 1 })
    const found = info!.result as any
    t.same(Object.keys(found), ['user', '__proto__', 'none', 'self'])
    t.match(found, { user: { name: 'ada', tags: ['a'] }, none: undefined })
    t.equal(found.self, found, 'a cycle is one in the copy')
    delete found.user.name
    found.user.tags.push('b')
    info!.result = info!.name = 'other'
  }
  t.same((result.user as { tags: unknown }).tags, ['a'], 'what the task has returned is as it was')
})

test('progress is copied too; what is no plain data is given out as it is', async t => {
  class Point { x = 1 }
  const end = signal()
  const point = new Point()
  const date = new Date(0)
  const hostile = Proxy.revocable({}, {})
  hostile.revoke()
  const throwing = { get x () { throw new Error('no') } }
  class List extends Array {}
  const values = [point, date, new List(), Object.create(null), new Map([[1, 2]]), Buffer.from('a'), hostile.proxy, throwing, null, 'text', () => {}]
  let deep: unknown = 'end'
  for (let i = 0; i < 50_000; i++) deep = [deep]
  const task = defineTask('task', async (_payload: undefined, ctx) => {
    ctx.progress({ values, deep })
    await end.promise
    return values
  })
  const { app: other } = await createApp(t, { tasks: [task] })
  const handle = other.backgroundTasks.add(task)
  const { id } = handle
  await settled(other, { running: 1 })
  const progress = (await other.backgroundTasks.find(id))!.progress as { values: unknown[], deep: unknown[] }
  t.not(progress.values, values)
  t.not(progress.deep, deep)
  values.forEach((value, index) => { t.ok(Object.is(progress.values[index], value), inspect(value)) })
  end.resolve()
  t.equal(await handle.settled(), 'completed')
  t.not((await other.backgroundTasks.find(id))!.result, values)
  const error = new Error('failed')
  const failing = other.backgroundTasks.add({ signal: true }, () => { throw error })
  const failed = failing.id
  await failing.settled()
  t.equal((await other.backgroundTasks.find(failed))!.error, error, 'an error can be asked what it is')
})

test('an array or an object of a class of its own is given out as it is', async t => {
  class List extends Array<string> {}
  class Point { x = 1 }
  const { app } = await createApp(t)
  const result = { list: List.from(['a']), point: new Point() }
  const task = app.backgroundTasks.add(() => result)
  const { id } = task
  await task.settled()
  const found = (await app.backgroundTasks.find(id))!.result as typeof result
  t.equal(found.list, result.list)
  t.equal(found.point, result.point)
})
