import { test } from 'tap'
import { account, Faults } from '../support/faults'
import { restartFaults } from '../support/restart-faults'
import { noRabbit, noRedis, ownRabbit, redis } from '../support/services'
import { until } from '../support/until'
import { workerFaults } from '../support/worker-faults'

test('processes that die, on RabbitMQ', { skip: noRabbit || noRedis }, async t => {
  const [rabbit, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])

  await t.test('workers that die', t => workerFaults(t, rabbit.url, { results }))

  await t.test('5,000 acknowledged tasks, while a worker is killed', async t => {
    const faults = new Faults(t, rabbit.url)
    const [web, first] = await Promise.all([faults.start(false), faults.start({ concurrency: 20 }), faults.start({ concurrency: 20 })])
    const acknowledged = new Set<number>()
    let next = 0
    const clients = Array.from({ length: 64 }, async () => {
      while (next < 5_000) {
        const n = next++
        if ((await web.send('POST', `/record/${n}`)).status === 202) acknowledged.add(n)
      }
    })
    await until('a part', () => acknowledged.size > 1_000)
    await first.stop('SIGKILL')
    await Promise.all([...clients, faults.start({ concurrency: 20 })])
    t.equal(acknowledged.size, 5_000)
    await until('all have run', () => faults.ran().size === 5_000)
    account(t, acknowledged, faults.ran())
    await faults.end()
  })

  await t.test('it is killed under load, and started again', t => restartFaults(t, rabbit, 'SIGKILL'))
})
