import { test } from 'tap'
import { build } from '../examples/tasks-in-a-file'
import { until } from './support/until'
import { listen } from './support/server'
import { newFile, noSqlite } from './support/sqlite'

test('tasks in a file: what the first application has not done, the next one does', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const first = await build({ file })
  const { url } = await listen(first)
  const post = async (delay: number) => {
    const response = await fetch(`${url}/receipts?delay=${delay}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', connection: 'close' },
      body: '{"order":"17","email":"ada@example.com"}'
    })
    t.equal(response.status, 202)
    return response.headers.get('location') as string
  }
  const done = { state: 'completed', result: { sentTo: 'ada@example.com' } }
  const now = await post(0)
  const isDone = (app: typeof first, path: string) => until('it is done', async () => {
    const receipt = (await app.inject(path)).json()
    return receipt.state === 'completed' && receipt
  })
  t.same(await isDone(first, now), done)
  const later = await post(1_000)
  t.same((await first.inject(later)).json(), { state: 'pending' })
  await first.close()

  const second = await build({ file })
  t.teardown(() => second.close())
  t.same((await second.inject(now)).json(), done)
  t.same(await isDone(second, later), done)
  t.equal((await second.inject('/receipts/unknown')).statusCode, 404)
})
