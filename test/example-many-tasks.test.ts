import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'tap'
import { build } from '../examples/many-tasks'
import { listen, type LogLine } from './support/server'

test('several tasks with a shared object: all run in order, and one that fails stops no other', async t => {
  const logFile = join(t.testdir(), 'log.txt')
  const logged: LogLine[] = []
  const app = await build({ logFile, logger: { stream: { write: (line: string) => { logged.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  const { url } = await listen(app)

  for (const name of ['ada', 'grace']) {
    const response = await fetch(`${url}/sign-up/${name}@example.com`, { method: 'POST' })
    t.equal(response.status, 202)
    t.same(await response.json(), { message: 'Signed up' })
    await app.backgroundTasks.idle()
  }

  t.equal(await readFile(logFile, 'utf8'), [
    'tasks for ada@example.com started',
    'mail 1 from hello@example.com to ada@example.com: Welcome',
    'mail 2 from hello@example.com to ada@example.com: Confirm your address',
    'tasks for ada@example.com ended',
    'tasks for grace@example.com started',
    'mail 3 from hello@example.com to grace@example.com: Welcome',
    'mail 4 from hello@example.com to grace@example.com: Confirm your address',
    'tasks for grace@example.com ended',
    ''
  ].join('\n'))
  t.same(await (await fetch(`${url}/mails`)).json(), { sent: 4 })
  t.match(app.backgroundTasks.stats(), { accepted: 10, completed: 8, failed: 2 })
  t.match(logged.filter(({ msg }) => msg === 'background task failed'), [
    { level: 50, task: { name: 'countVisitor' }, err: { message: 'the statistics server did not take ada@example.com' } },
    { level: 50, task: { name: 'countVisitor' }, err: { message: 'the statistics server did not take grace@example.com' } }
  ])
})
