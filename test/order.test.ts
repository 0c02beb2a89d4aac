import { test } from 'tap'
import { createApp, listen } from './support/server'

test('tasks of one request run after the response, one at a time, in the order they were added', async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  app.get('/', async (request, reply) => {
    reply.raw.on('finish', () => seen.push('response'))
    request.backgroundTasks.add(async (name: string) => {
      seen.push(`${name} begins`)
      await new Promise(resolve => { setImmediate(resolve) })
      seen.push(`${name} ends`)
    }, 'first')
    request.backgroundTasks.add((name: string) => { seen.push(name) }, 'second')
    request.backgroundTasks.add(async (name: string) => { seen.push(name) }, 'third')
    seen.push('handler')
    return 'ok'
  })
  const { url } = await listen(app)
  t.equal(await (await fetch(url)).text(), 'ok')
  await app.backgroundTasks.idle()
  t.same(seen, ['handler', 'response', 'first begins', 'first ends', 'second', 'third'])
})

test('a task gets exactly the arguments given, however many', async t => {
  const { app } = await createApp(t)
  const seen: unknown[][] = []
  const note = (...args: unknown[]) => { seen.push(args) }
  app.get('/', async request => {
    for (let count = 0; count <= 5; count++) request.backgroundTasks.add(note, ...Array.from({ length: count }, (_, index) => index))
    return 'x'
  })
  await app.inject('/')
  await app.backgroundTasks.idle()
  t.same(seen, [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
})
