import { test, type Test } from 'tap'
import { Faults } from '../support/faults'
import { noPostgres, noRedis, postgres, redis } from '../support/services'
import { until } from '../support/until'

// Processes of one queue whose clocks differ by a minute each; `lockDuration` is 1 s.

const MINUTE = 60_000

async function clocks (t: Test, url: string): Promise<void> {
  const faults = new Faults(t, url)
  const [web, late, right, early] = await Promise.all([
    faults.start(false, { clockAhead: MINUTE }),
    ...[-MINUTE, 0, MINUTE].map(clockAhead => faults.start({ concurrency: 2 }, { clockAhead }))
  ])
  for (let n = 0; n < 6; n++) t.equal((await web!.send('POST', `/slow/${n}/8000`)).status, 202)
  await until('all have run', () => faults.ran().size === 6)
  const lines = faults.lines()
  t.same(lines.filter(({ what }) => what === 'began').map(({ n }) => n).sort(), [0, 1, 2, 3, 4, 5], 'none is taken from a live worker')
  t.same(new Set(lines.map(({ pid }) => pid)), new Set([late!.pid, right!.pid, early!.pid]))
  t.ok(lines.every(({ attempt }) => attempt === 1))
  await faults.end()
}

test('Postgres: a worker whose clock is wrong takes no task from a live one, and loses none', { skip: noPostgres }, async t => {
  await clocks(t, (await postgres(t)).url)
})

test('Redis: a worker whose clock is wrong takes no task from a live one, and loses none', { skip: noRedis }, async t => {
  await clocks(t, (await redis(t)).url)
})
