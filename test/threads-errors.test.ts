import { test, type Test } from 'tap'
import { defineTask, type BackgroundTasksOptions, type DefinitionOptions } from '../index'
import { createApp, settled } from './support/server'
import { moduleFile } from './support/threads'

/** The error in `onError` of a task that throws on a thread. */
async function thrownBy (t: Test, text: string, options: DefinitionOptions = {}) {
  const errors: any[] = []
  const task = defineTask('task', moduleFile(t, text), options)
  const onError: BackgroundTasksOptions['onError'] = error => { errors.push(error) }
  const { app } = await createApp(t, { tasks: [task], onError })
  app.backgroundTasks.add(task)
  await settled(app, { failed: 1 })
  t.equal(errors.length, 1)
  return errors[0]
}

test('an error keeps its name, message, code, cause, stack, and other fields', async t => {
  const error = await thrownBy(t, `
    class StorageError extends Error { name = 'StorageError' }
    export default async () => {
      const cause = Object.assign(new RangeError('too large'), { code: 'E_SIZE', at: 5 })
      throw Object.assign(new StorageError('not stored', { cause }), { code: 'E_STORAGE', statusCode: 507, retry () {} })
    }`)
  t.ok(error instanceof Error)
  t.equal(error.name, 'StorageError')
  t.equal(String(error), 'StorageError: not stored')
  t.match(error, { message: 'not stored', code: 'E_STORAGE', statusCode: 507, stack: /task-\d+\.mjs:5/ })
  t.match(error.retry, '[Function: retry]')
  t.ok(error.cause instanceof RangeError)
  t.match(error.cause, { message: 'too large', code: 'E_SIZE', at: 5 })
  t.same(Object.keys(error).sort(), ['code', 'retry', 'statusCode'])
})

test('an error without a stack, and one whose causes go round in a circle', async t => {
  const error = await thrownBy(t, `
    export default () => {
      const error = new Error('round')
      error.stack = undefined
      error.cause = error
      throw error
    }`)
  t.equal(error.message, 'round')
  t.equal(error.stack, undefined)
  let depth = 0
  for (let cause = error; cause !== undefined; cause = cause.cause) depth++
  t.equal(depth, 9)
})

test('an error of another realm is an error too; an unreadable one says so', async t => {
  const foreign = await thrownBy(t, `
    import { runInNewContext } from 'node:vm'
    export default () => runInNewContext("null.x")`)
  t.ok(foreign instanceof TypeError)
  t.equal(await thrownBy(t, `
    export default () => { throw Object.defineProperty(new Error('x'), 'message', { get () { throw new Error('no') } }) }`), 'an error that cannot be read')
})

test('anything can be thrown', async t => {
  t.equal(await thrownBy(t, 'export default async () => { throw undefined }'), undefined)
  t.equal(await thrownBy(t, 'export default async () => { throw null }'), null)
  t.same(await thrownBy(t, 'export default async () => { throw { a: [1] } }'), { a: [1] })
  t.equal(await thrownBy(t, 'export default async () => { throw Symbol("s") }'), 'Symbol(s)')
  t.equal(await thrownBy(t, 'export default async () => { throw () => {} }'), '[Function (anonymous)]')
})

test('UnrecoverableError ends the attempts', async t => {
  const error = await thrownBy(t, `
    class UnrecoverableError extends Error { name = 'UnrecoverableError' }
    export default async () => { throw new UnrecoverableError('no use') }`, { attempts: 5 })
  t.match(error, { name: 'UnrecoverableError', message: 'no use' })
})

test('a result that cannot be cloned fails the task, with a code', async t => {
  t.match(await thrownBy(t, 'export default async () => ({ fn () {} })'), {
    code: 'FST_BGT_UNCLONABLE', message: /^The result of the background task 'task' must be .* received .*could not be cloned/
  })
})

test('attempts and backoff are as for every task', async t => {
  const task = defineTask('task', moduleFile(t, `
    export default async (payload, { attempt }) => {
      if (attempt < 3) throw new Error('once more')
    }`), { attempts: 3, backoff: 1 })
  const { app } = await createApp(t, { tasks: [task] })
  app.backgroundTasks.add(task)
  await settled(app, { completed: 1, retried: 2 })
})

test('a code that is not a field of the error itself', async t => {
  t.match(await thrownBy(t, `
    class StorageError extends Error { get code () { return 'E_STORAGE' } }
    export default () => { throw new StorageError('not stored') }`), { message: 'not stored', code: 'E_STORAGE' })
  const error = await thrownBy(t, 'export default () => { structuredClone(() => {}) }')
  t.match(error, { name: 'DataCloneError', code: 25 })
})

test('an AggregateError, and errors in other fields, keep what they consist of', async t => {
  const failed = '(code, cause) => Object.assign(new RangeError(code, { cause }), { code })'
  const error = await thrownBy(t, `
    const failed = ${failed}
    export default () => Promise.any([Promise.reject(failed('E_1', failed('E_CAUSE'))), Promise.reject('text')])`)
  t.ok(error instanceof AggregateError)
  t.equal(error.errors.length, 2)
  t.ok(error.errors[0] instanceof RangeError)
  t.match(error.errors, [{ code: 'E_1', cause: { code: 'E_CAUSE' } }, 'text'])
  t.same(Object.keys(error), [])

  const more = await thrownBy(t, `
    const failed = ${failed}
    export default () => { throw Object.assign(new AggregateError([failed('E_1')], 'all'), { original: failed('E_DRIVER') }) }`)
  t.match(more, { errors: [{ code: 'E_1' }], original: { code: 'E_DRIVER' } })
  t.same(Object.keys(more), ['original'])

  const wrapper = await thrownBy(t, `
    const failed = ${failed}
    export default () => { throw Object.assign(new Error('query'), { original: failed('E_DRIVER'), all: [failed('E_2')], errors: [{ field: 'name' }], list: [1] }) }`)
  t.match(wrapper, { original: { code: 'E_DRIVER' }, all: [{ code: 'E_2' }], errors: [{ field: 'name' }], list: [1] })
  t.ok(wrapper.original instanceof RangeError)
  t.same(Object.keys(wrapper).sort(), ['all', 'errors', 'list', 'original'])
})

test('an error that contains itself many times over comes to an end', async t => {
  const error = await thrownBy(t, `
    export default () => {
      const error = new AggregateError([], 'many')
      for (let i = 0; i < 20; i++) error.errors.push(error)
      throw error
    }`)
  let count = 0
  const visit = (error: AggregateError) => {
    count++
    error.errors.forEach(visit)
  }
  visit(error)
  t.equal(count, 100)
})
