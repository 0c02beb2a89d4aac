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
