import { test } from 'tap'
import { build, journal } from '../examples/chain'

test('a chain: each task adds the next one', async t => {
  const app = await build()
  t.teardown(() => app.close())
  const response = await app.inject({ method: 'POST', url: '/orders', body: { order: '17', email: 'ada@example.com' } })
  t.equal(response.statusCode, 202)
  await app.backgroundTasks.idle()
  t.same(journal, ['order 17 is packed', 'order 17 is charged', 'the receipt of order 17 goes to ada@example.com'])
})
