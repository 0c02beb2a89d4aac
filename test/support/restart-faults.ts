import type { Test } from 'tap'
import { NEVER_MS, until } from './until'
import { account, Faults } from './faults'
import type { OwnService } from './services'

/** A server that ends under load, by this signal, and is started again. */
export async function restartFaults (t: Test, server: OwnService, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  const faults = new Faults(t, server.url)
  const [web] = await Promise.all([faults.start(false), faults.start({ concurrency: 5 })])
  const acknowledged = new Set<number>()
  const statuses = new Map<number, number>()
  let slowest = 0
  let next = 0
  let stop = false
  const clients = Array.from({ length: 8 }, async () => {
    while (!stop) { // eslint-disable-line no-unmodified-loop-condition -- it is set below, while the clients run
      const n = next++
      const begin = performance.now()
      const { status } = await web.send('POST', `/record/${n}`)
      slowest = Math.max(slowest, performance.now() - begin)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if (status === 202) acknowledged.add(n)
    }
  })
  await until('a load', () => acknowledged.size > 300)
  await server.stop(signal)
  await until('refusals', () => (statuses.get(503) ?? 0) > 50)
  await server.start()
  const before = acknowledged.size
  await until('it is back', () => acknowledged.size > before + 300)
  stop = true
  await Promise.all(clients)
  t.same([...statuses.keys()].sort(), [202, 503])
  t.comment(`${statuses.get(202)} times 202, ${statuses.get(503)} times 503, the slowest answer after ${Math.round(slowest)} ms`)
  t.ok(slowest < NEVER_MS / 4, `storeTimeout is 2 s, and the slowest answer came after ${slowest} ms`)
  await until('all have run', () => {
    const ran = faults.ran()
    return [...acknowledged].every(n => ran.has(n))
  })
  account(t, acknowledged, faults.ran())
  await faults.end()
}
