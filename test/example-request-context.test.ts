import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'tap'
import { build } from '../examples/request-context'
import { listen } from './support/server'

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
