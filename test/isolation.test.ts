import { test } from 'tap'
import { createApp, listen, settled } from './support/server'

/** A thenable that is no promise. */
function thenable (then: (resolve: (value?: unknown) => void, reject: (error: unknown) => void) => void): PromiseLike<unknown> {
  return { then } as PromiseLike<unknown>
}

const failures: Record<string, () => unknown> = {
  'throws an error': () => { throw new Error('boom') },
  'throws undefined': () => { throw undefined }, // eslint-disable-line no-throw-literal -- what is no error is what is tested
  'throws a string': () => { throw 'boom' }, // eslint-disable-line no-throw-literal -- what is no error is what is tested
  rejects: async () => { throw new Error('boom') },
  'rejects with nothing': () => Promise.reject(), // eslint-disable-line prefer-promise-reject-errors -- what is no error is what is tested
  'rejects later': () => new Promise((_resolve, reject) => { setImmediate(reject, new Error('boom')) }),
  'returns a thenable that rejects': () => thenable((_resolve, reject) => reject(new Error('boom'))),
  'returns a thenable that throws': () => thenable(() => { throw new Error('boom') }),
  'returns an object whose `then` cannot be read': () => ({ get then () { throw new Error('boom') } }),
  'is a class': class {} as unknown as () => unknown
}

for (const [what, fails] of Object.entries(failures)) {
  test(`a task that ${what} is logged and counted, and the next one runs`, async t => {
    const { app, log } = await createApp(t)
    let ran = 0
    app.get('/', async request => {
      request.backgroundTasks.add(() => { ran++ })
      request.backgroundTasks.add({ name: 'failing' }, fails)
      request.backgroundTasks.add(async () => { ran++ })
      return 'x'
    })
    const { url } = await listen(app)
    t.equal(await (await fetch(url)).text(), 'x')
    await settled(app, { completed: 2, failed: 1 })
    t.equal(ran, 2)
    const errors = log.filter(line => line.level === 50)
    t.equal(errors.length, 1)
    t.match(errors[0], { msg: 'background task failed', reqId: 'req-1', task: { name: 'failing' } })
  })
}

test('an error that the logger chokes on is a process warning instead, and the next task runs', async t => {
  const { app } = await createApp(t)
  const warnings: Array<Error & { code?: string }> = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  app.get('/', async request => {
    request.backgroundTasks.add(() => { throw Object.freeze(new Error('boom')) })
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1, failed: 1 })
  t.match(warnings, [{ code: 'FST_BGT_LOG_FAILED', message: 'background task failed; logging it failed' }])
})

test('a thenable that calls back at once, twice, or never after an error counts once', async t => {
  const { app } = await createApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(() => thenable(resolve => { resolve(); resolve() }))
    request.backgroundTasks.add(() => thenable((resolve, reject) => { resolve(); reject(new Error('too late')) }))
    request.backgroundTasks.add(() => thenable(resolve => { resolve(); throw new Error('too late') }))
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 3 })
})

test('requests do not wait for each other', async t => {
  const { app } = await createApp(t)
  const release: Array<() => void> = []
  app.get('/slow', async request => {
    request.backgroundTasks.add(() => new Promise<void>(resolve => { release.push(resolve) }))
    return 'x'
  })
  app.get('/fast', async request => {
    request.backgroundTasks.add(() => {})
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(`${url}/slow`)
  await settled(app, { running: 1 })
  await fetch(`${url}/fast`)
  await settled(app, { running: 1, completed: 1 })
  release[0]!()
  await settled(app, { completed: 2 })
})

test('a task may return anything, null too', async t => {
  const { app } = await createApp(t)
  const handles = [null, undefined, 0, '', { then: 1 }].map(value => app.backgroundTasks.add(() => value))
  t.same(await Promise.all(handles.map(handle => handle.settled())), handles.map(() => 'completed'))
})
