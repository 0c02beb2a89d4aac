import fastifyRequestContext, { requestContext } from '@fastify/request-context'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'tap'
import { build } from '../examples/request-context'
import { createApp, listen } from './support/server'

test('each task sees the context of its own request', async t => {
  const logFile = join(t.testdir({}), 'audit.txt')
  const app = await build({ logFile })
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const users = ['ada', 'grace', 'edsger']
  const responses = await Promise.all(users.map(user => fetch(`${url}/documents/${user.length}?user=${user}`, { method: 'DELETE' })))
  t.same(responses.map(({ status }) => status), [204, 204, 204])
  await app.backgroundTasks.idle()
  t.same((await readFile(logFile, 'utf8')).trim().split('\n').sort(), [
    'ada deleted document 3',
    'edsger deleted document 6',
    'grace deleted document 5'
  ])
})

test('@fastify/request-context registered after the plugin', async t => {
  const { app } = await createApp(t)
  await app.register(fastifyRequestContext, { defaultStoreValues: { user: 'nobody' } })
  const seen: unknown[] = []
  app.get<{ Querystring: { user: string } }>('/', async request => {
    request.requestContext.set('user', request.query.user)
    request.backgroundTasks.add(() => { seen.push(requestContext.get('user')) })
    return 'x'
  })
  await Promise.all([app.inject('/?user=ada'), app.inject('/?user=grace')])
  await app.backgroundTasks.idle()
  t.same(seen.sort(), ['ada', 'grace'])
})
