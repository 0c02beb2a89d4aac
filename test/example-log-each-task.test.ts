import { test } from 'tap'
import { build } from '../examples/log-each-task'
import { settled, type LogLine } from './support/server'

test('log each task: one line for each end, in the log of its own application', async t => {
  const start = async () => {
    const log: LogLine[] = []
    const app = await build({ stream: { write: (line: string) => { log.push(JSON.parse(line)) } } })
    return { app, lines: () => log.filter(({ msg }) => msg.startsWith('background task ')) }
  }
  const [one, other] = [await start(), await start()]
  t.teardown(() => other.app.close())
  t.equal((await one.app.inject({ method: 'POST', url: '/orders' })).statusCode, 200)
  await settled(one.app, { completed: 1, dropped: 1 })
  t.match(one.lines(), [
    { msg: 'background task dropped', reqId: 'req-1', task: { name: 'alert' } },
    { msg: 'background task completed', reqId: 'req-1', task: { name: 'sendReceipt' } }
  ])
  t.same(other.lines(), [])

  // A task that ends while the application closes has its line as well.
  await one.app.inject({ method: 'POST', url: '/orders' })
  await one.app.close()
  t.equal(one.lines().length, 4)
})
