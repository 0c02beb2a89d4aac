import { test } from 'tap'
import { block, createApp, listen, settled, turns } from './support/server'
import { until } from './support/until'

for (const [what, task] of [['sync', () => block(15)], ['async', async () => block(15)]] as const) {
  test(`between ${what} tasks that hold the thread, the event loop turns`, async t => {
    const { app } = await createApp(t)
    const seen: string[] = []
    app.get('/', async request => {
      for (let i = 0; i < 4; i++) {
        request.backgroundTasks.add(() => {
          seen.push('task')
          return task()
        })
      }
      return 'x'
    })
    const turn = () => {
      if (app.backgroundTasks.stats().running + app.backgroundTasks.stats().pending > 0) seen.push('turn')
      if (app.backgroundTasks.stats().completed < 4) setImmediate(turn)
    }
    const { url } = await listen(app)
    const response = fetch(url)
    turn()
    await response
    await settled(app, { completed: 4 })
    const between = seen.join(' ').split('task').slice(1, -1)
    t.ok(between.every(part => part.includes('turn')), seen.join(' '))
  })
}

test('other requests are answered between them', async t => {
  const { app } = await createApp(t)
  app.get('/busy', async request => {
    for (let i = 0; i < 20; i++) request.backgroundTasks.add(() => block(15))
    return 'x'
  })
  app.get('/other', async () => 'answered')
  const { url } = await listen(app)
  await (await fetch(`${url}/busy`)).text()
  t.equal(await (await fetch(`${url}/other`)).text(), 'answered')
  t.ok(app.backgroundTasks.stats().pending > 0, 'before the tasks had all run')
  await settled(app, { completed: 20 })
})

test('many short tasks share a turn', async t => {
  const { app } = await createApp(t)
  const counter = { count: 0 }
  app.get('/', async request => {
    for (let i = 0; i < 2_000; i++) request.backgroundTasks.add(() => { counter.count++ })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  let turned = 0
  while (counter.count < 2_000 && turned < 1_000) {
    await turns(1)
    turned++
  }
  t.equal(counter.count, 2_000)
  t.ok(turned < 100, `${turned} turns`)
})

test('short async tasks of many requests do not, together, keep the event loop from turning', async t => {
  const { app } = await createApp(t)
  const [lines, tasks] = [20, 1_000]
  app.get('/', async request => {
    for (let i = 0; i < tasks; i++) request.backgroundTasks.add(async () => block(0.02))
    return 'x'
  })
  await Promise.all(Array.from({ length: lines }, () => app.inject('/')))
  let turned = 0
  await until('all have run', async () => {
    await turns(1)
    turned++
    return app.backgroundTasks.stats().completed === lines * tasks
  })
  // 400 ms of work at least, in slices of 10 ms.
  t.ok(turned >= 8, `${turned} turns`)
})
