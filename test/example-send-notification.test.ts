import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { build } from '../examples/send-notification'
import { listen } from './support/server'

async function start (t: Test) {
  const logFile = join(t.testdir(), 'log.txt')
  const app = await build({ logFile })
  t.teardown(() => app.close())
  const { url } = await listen(app)

  return async function post (path: string) {
    const response = await fetch(url + path, { method: 'POST' })
    const body = await response.json()
    await app.backgroundTasks.idle()
    return { status: response.status, body, log: await readFile(logFile, 'utf8').catch(() => '') }
  }
}

test('a handler adds a notification', async t => {
  const post = await start(t)
  t.same(await post('/send-notification/ada@example.com'), {
    status: 200,
    body: { message: 'Notification sent in the background' },
    log: 'notification for ada@example.com: some notification\n'
  })
})

test('tasks of a hook run before tasks of the handler', async t => {
  const post = await start(t)
  t.same(await post('/send-notification-with-query/ada@example.com?q=fastify'), {
    status: 200,
    body: { message: 'Message sent' },
    log: 'found query: fastify\nmessage to ada@example.com\n'
  })
})

test('without a query the hook adds nothing', async t => {
  const post = await start(t)
  const { body, log } = await post('/send-notification-with-query/ada@example.com')
  t.same(body, { message: 'Message sent' })
  t.equal(log, 'message to ada@example.com\n')
})

test('a request that fails validation leaves no line', async t => {
  const post = await start(t)
  const { status, log } = await post('/send-notification-with-query/ada@example.com?q=one&q=two')
  t.equal(status, 400)
  t.equal(log, '')
})

test('lines of several requests are all written', async t => {
  const post = await start(t)
  await post('/send-notification/ada@example.com')
  await post('/send-notification/grace@example.com')
  const { log } = await post('/send-notification-with-query/edsger@example.com?q=goto')
  t.equal(log, [
    'notification for ada@example.com: some notification',
    'notification for grace@example.com: some notification',
    'found query: goto',
    'message to edsger@example.com',
    ''
  ].join('\n'))
})
