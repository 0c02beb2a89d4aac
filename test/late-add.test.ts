import { test } from 'tap'
import { lateAddWarning } from '../lib/observe/report'
import { createApp, listen, settled, signal } from './support/server'

test('a task may add tasks: they join the run, in order, without a warning', async t => {
  const { app } = await createApp(t)
  lateAddWarning.emitted = false
  const ran: string[] = []
  app.get('/', async request => {
    request.backgroundTasks.add(async () => {
      ran.push('first')
      request.backgroundTasks.add(() => {
        ran.push('added by the first')
        request.backgroundTasks.add(() => { ran.push('added by that') })
      })
      await Promise.resolve()
    })
    request.backgroundTasks.add(() => { ran.push('second') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 4 })
  t.same(ran, ['first', 'second', 'added by the first', 'added by that'])
  t.equal(lateAddWarning.emitted, false)
})

test('a task added after the run is over starts at once, and warns once a process with the likely causes', async t => {
  const { app } = await createApp(t)
  lateAddWarning.emitted = false
  const warnings: Array<Error & { code?: string }> = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const ran: string[] = []
  const later: Array<() => void> = []
  app.get('/', async request => {
    request.backgroundTasks.add(() => { ran.push('in time') })
    later.push(() => {
      request.backgroundTasks.add(function forgotten () { ran.push('late') })
      t.equal(ran.at(-1), 'in time', 'never inside add')
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  later.pop()!()
  await settled(app, { completed: 2 })
  await fetch(url)
  await settled(app, { completed: 3 })
  later.pop()!()
  await settled(app, { completed: 4 })
  t.same(ran, ['in time', 'late', 'in time', 'late'])
  t.equal(warnings.length, 1)
  t.equal(warnings[0]!.code, 'FST_BGT_LATE_ADD')
  for (const cause of ["'forgotten'", 'does not await', 'outlived its timeout', 'singleton', 'asyncContext: true']) {
    t.match(warnings[0]!.message, cause)
  }
})

test('a task added late is judged by the outcome that was', async t => {
  const { app } = await createApp(t)
  const later = signal()
  app.get('/', async request => {
    request.backgroundTasks.add(() => {})
    later.promise.then(() => {
      request.backgroundTasks.add({ runOn: 'failure' }, () => t.fail('must not run'))
      request.backgroundTasks.add({ runOn: ({ statusCode }) => statusCode === 200 }, () => {})
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  later.resolve()
  await settled(app, { completed: 2, dropped: 1 })
})

test('the first add may come when the response has long left', async t => {
  const { app } = await createApp(t)
  const later = signal()
  let runs = 0
  app.get('/', async request => {
    later.promise.then(() => { request.backgroundTasks.add(() => { runs++ }) })
    return 'x'
  })
  const { url } = await listen(app)
  await (await fetch(url)).text()
  later.resolve()
  await settled(app, { completed: 1 })
  t.equal(runs, 1)
})
