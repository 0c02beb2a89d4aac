import { test } from 'tap'
import { build } from '../examples/metrics'
import { until } from './support/until'
import { listen } from './support/server'

test('metrics: what a scrape sees while a task runs, and when all have ended', async t => {
  const app = await build()
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const post = async (path: string) => t.equal((await fetch(url + path, { method: 'POST' })).status, 200)

  /** The samples of one scrape, as a server of Prometheus reads them. */
  const scrape = async () => {
    const response = await fetch(`${url}/metrics`)
    t.match(response.headers.get('content-type'), /^text\/plain; version=0\.0\.4/)
    const lines = (await response.text()).split('\n').filter(line => line !== '' && !line.startsWith('#'))
    return Object.fromEntries(lines.map(line => {
      const [name, value] = line.split(' ')
      return [name, Number(value)]
    }))
  }

  t.match(await scrape(), { background_tasks_accepted_total: 0, 'background_tasks{state="running"}': 0 })
  await post('/tasks/1')
  await post('/fail')
  await until('both have ended', async () => (await scrape())['background_tasks_settled_total{state="failed"}'] === 1)
  await until('the first, too', async () => (await scrape())['background_tasks_settled_total{state="completed"}'] === 1)
  await post('/tasks/300')
  await until('it runs', async () => (await scrape())['background_tasks{state="running"}'] === 1)
  await until('it has ended', async () => (await scrape())['background_tasks{state="running"}'] === 0)
  t.same(await scrape(), {
    background_tasks_accepted_total: 3,
    background_tasks_retried_total: 1,
    'background_tasks_settled_total{state="completed"}': 2,
    'background_tasks_settled_total{state="failed"}': 1,
    'background_tasks_settled_total{state="dropped"}': 0,
    'background_tasks_settled_total{state="cancelled"}': 0,
    'background_tasks_settled_total{state="replaced"}': 0,
    'background_tasks_settled_total{state="captured"}': 0,
    'background_tasks_settled_total{state="stored"}': 0,
    'background_tasks{state="collecting"}': 0,
    'background_tasks{state="pending"}': 0,
    'background_tasks{state="running"}': 0,
    background_tasks_abandoned: 0
  })
})
