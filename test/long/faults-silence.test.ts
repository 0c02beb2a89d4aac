import { test, type Test } from 'tap'
import { account, Faults } from '../support/faults'
import { Proxy } from '../support/proxy'
import { noOwnPostgres, noOwnRedis, ownPostgres, ownRedis, type OwnService } from '../support/services'
import { until } from '../support/until'

// A network that forgets all connections under load, twice: nothing comes through them any more, and new ones work.

async function silence (t: Test, server: OwnService): Promise<void> {
  const proxy = await Proxy.start(t, server.port)
  const url = new URL(server.url)
  url.host = `127.0.0.1:${proxy.port}`
  const faults = new Faults(t, url.href)
  const [web] = await Promise.all([faults.start(false), faults.start({ concurrency: 5 })])
  const acknowledged = new Set<number>()
  const statuses = new Map<number, number>()
  let next = 0
  let stop = false
  const clients = Array.from({ length: 8 }, async () => {
    while (!stop) { // eslint-disable-line no-unmodified-loop-condition -- it is set below, while the clients run
      const n = next++
      const { status } = await web!.send('POST', `/record/${n}`)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if (status === 202) acknowledged.add(n)
    }
  })
  for (let round = 1; round <= 2; round++) {
    const before = acknowledged.size
    await until(`a load in round ${round}`, () => acknowledged.size > before + 200)
    const refused = statuses.get(503) ?? 0
    proxy.silence()
    await until(`refusals in round ${round}`, () => (statuses.get(503) ?? 0) > refused)
  }
  const before = acknowledged.size
  await until('it is stored again', () => acknowledged.size > before + 200)
  stop = true
  await Promise.all(clients)
  t.same([...statuses.keys()].sort(), [202, 503])
  t.comment(`${statuses.get(202)} times 202, ${statuses.get(503)} times 503`)
  await until('all have run', () => {
    const ran = faults.ran()
    return [...acknowledged].every(n => ran.has(n))
  })
  account(t, acknowledged, faults.ran())
  await faults.end()
}

test('Redis: connections that say nothing under load lose nothing that was acknowledged', { skip: noOwnRedis }, async t => {
  await silence(t, await ownRedis(t))
})

test('Postgres: connections that say nothing under load lose nothing that was acknowledged', { skip: noOwnPostgres }, async t => {
  await silence(t, await ownPostgres(t))
})
