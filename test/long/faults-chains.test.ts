import { test, type Test } from 'tap'
import type { FaultOptions } from '../support/fault-app'
import { Faults } from '../support/faults'
import { noPostgres, noRabbit, noRedis, ownRabbit, postgres, redis } from '../support/services'
import { noSqlite } from '../support/sqlite'
import { until } from '../support/until'

// A worker that dies between `ctx.add` and the end of the attempt.

/** Has a worker die of the task `lead`, and another one run it to its end. Returns what the two have noted. */
async function lead (t: Test, connection: string, dies: NonNullable<FaultOptions['dies']>, delay: number, results?: string) {
  const faults = new Faults(t, connection, results === undefined ? {} : { results })
  const web = await faults.start(false)
  const first = await faults.start({ concurrency: 1 }, { dies })
  const { body: { id } } = await web.send('POST', `/lead/1/${delay}`)
  await until('it dies', () => !first.alive)
  const second = await faults.start({ concurrency: 1 })
  await until('it has completed', async () => (await web.send('GET', `/tasks/${id}`)).body.state === 'completed')
  const noted = (pid: number) => faults.lines().filter(line => line.pid === pid && line.what !== 'ran').map(({ what, attempt }) => `${what} by attempt ${attempt}`)
  return { faults, first: noted(first.pid), second: noted(second.pid) }
}

const ADDED = 'added by attempt 1'
const STORED = 'stored by attempt 1'

async function chainFaults (t: Test, connection: string, dedupes: boolean, results?: string): Promise<void> {
  await t.test('right after the add: the next attempt adds it, once', async t => {
    const { faults, first, second } = await lead(t, connection, 'after the add', 0, results)
    t.same([first, second], [[ADDED], [ADDED, STORED]])
    await until('what was added has run', () => faults.ran().has(1))
    await faults.end()
    t.equal(faults.ran().get(1), 1)
  })

  await t.test('when what was added is stored: it stays, and the next attempt adds another one', async t => {
    const { faults, first, second } = await lead(t, connection, 'when it is stored', 0, results)
    t.same([first, second], [[ADDED, STORED], [ADDED, STORED]])
    await until('both have run', () => faults.ran().get(1) === 2)
    await faults.end()
  })

  if (!dedupes) return
  await t.test('with a dedupe id of the attempt\'s task, the other one is dropped', async t => {
    const { faults, first, second } = await lead(t, connection, 'when it is stored', 3_600_000, results)
    t.same([first, second], [[ADDED, STORED], [ADDED, 'dropped by attempt 1']])
    await faults.end()
  })
}

test('on SQLite', { skip: noSqlite }, t => chainFaults(t, `sqlite:${t.testdir({})}`, true))

test('on Redis', { skip: noRedis }, async t => chainFaults(t, (await redis(t)).url, true))

test('on Postgres', { skip: noPostgres }, async t => chainFaults(t, (await postgres(t)).url, true))

test('on RabbitMQ', { skip: noRabbit || noRedis }, async t => {
  const [rabbit, { url }] = await Promise.all([ownRabbit(t), redis(t)])
  await chainFaults(t, rabbit.url, false, url)
})
