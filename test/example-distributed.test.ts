import { test } from 'tap'
import type { build as Build } from '../examples/distributed/app'
import { until } from './support/until'
import { listen } from './support/server'
import { noRedis, redis } from './support/services'

/** bull-board is needed by this example alone. */
function noBoard (): string | false {
  try {
    require.resolve('@bull-board/fastify')
    return false
  } catch {
    return '@bull-board/fastify is not installed'
  }
}

test('distributed: a web server, a worker, and the board', { skip: noRedis || noBoard() }, async t => {
  const { build } = require('../examples/distributed/app') as { build: typeof Build }
  const { url: connection } = await redis(t)
  const queue = `thumbnails-${process.pid}`
  const web = await build({ role: 'web', connection, queue })
  t.teardown(() => web.close())
  const { url } = await listen(web)
  const response = await fetch(`${url}/thumbnails`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"image":"a.png","width":100}' })
  t.equal(response.status, 202)
  const location = response.headers.get('location') as string
  const watch = async () => (await fetch(url + location)).json() as Promise<{ state: string }>
  t.match(await watch(), { state: 'pending' })
  const worker = await build({ role: 'worker', connection, queue })
  t.teardown(() => worker.close())
  await worker.ready()
  t.match(await until('the thumbnail', async () => {
    const task = await watch()
    return task.state === 'completed' && task
  }), { attempts: 1, result: { image: 'a.png', width: 100 } })
  t.match(await (await fetch(`${url}/queues/api/queues`)).json(), { queues: [{ name: queue }] })
  t.equal((await fetch(`${url}/queues`)).status, 200)
})
