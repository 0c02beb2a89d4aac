import { join } from 'node:path'
import { test } from 'tap'
import type { LogLine } from '../support/server'
import { build } from '../../examples/celery/app'
import { noCelery, startWorker } from '../support/celery'
import { ownRabbit, redis } from '../support/services'
import { until } from '../support/until'

test('celery: Fastify adds, Python runs and adds, Fastify runs', { skip: noCelery }, async t => {
  const [{ url: broker }, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])
  const log: LogLine[] = []
  const app = await build({ broker, results, logger: { level: 'info', stream: { write: (line: string) => { log.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  const response = await app.inject({ method: 'POST', url: '/pictures/a.png' })
  t.equal(response.statusCode, 202)
  const watch = async () => (await app.inject(response.headers.location as string)).json<{ state: string }>()
  t.match(await watch(), { state: 'pending' })
  await startWorker(t, 'tasks', {
    cwd: join(__dirname, '../../examples/celery'),
    env: { ...process.env, NODE_OPTIONS: '', BROKER_URL: broker, RESULT_BACKEND: results, PYTHONDONTWRITEBYTECODE: '1' }
  })
  t.match(await until('the picture', async () => {
    const task = await watch()
    return task.state === 'completed' && task
  }), { result: { key: 'a.png', pixels: 307_200 } })
  await until('it is announced', () => log.some(({ msg }) => msg === 'a.png is ready: 307200 pixels'))
  t.equal((await app.inject('/tasks/00000000-0000-4000-8000-000000000000')).statusCode, 404)
})
