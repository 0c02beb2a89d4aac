import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { build } from '../examples/failed-requests'
import { listen } from './support/server'

async function pay (t: Test, path: string) {
  const logFile = join(t.testdir({}), 'log.txt')
  const app = await build({ logFile })
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const { status } = await fetch(url + path, { method: 'POST' })
  await app.backgroundTasks.idle()
  return { status, log: (await readFile(logFile, 'utf8')).trim().split('\n'), stats: app.backgroundTasks.stats() }
}

test('a request that succeeds', async t => {
  t.match(await pay(t, '/payments/42?card=valid'), {
    status: 200,
    log: ['receipt for 42', 'attempt to pay 42'],
    stats: { completed: 2, dropped: 1 }
  })
})

test('a handler that throws', async t => {
  t.match(await pay(t, '/payments/42?card=stolen'), {
    status: 402,
    log: ['reservation of 42 taken back', 'attempt to pay 42', 'alert: The card was refused'],
    stats: { completed: 3, dropped: 1 }
  })
})

test('a request that never reaches its handler', async t => {
  t.match(await pay(t, '/payments/42'), { status: 400, log: ["alert: querystring must have required property 'card'"], stats: { accepted: 1 } })
})
