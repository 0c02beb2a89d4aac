import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { Faults } from '../support/faults'
import { noSqlite, rawConnection } from '../support/sqlite'
import { until } from '../support/until'

const KILLS = 20
const EVERY_MS = 1_000

test('three processes on one file, one of them 30 s ahead, killed when a run is due: no due time is stored twice, and none that was taken is lost', { skip: noSqlite }, async t => {
  const folder = t.testdir({})
  const faults = new Faults(t, `sqlite:${folder}`, { every: EVERY_MS, maxCrashes: KILLS })
  const aheads = [30_000, 0, 0]
  const start = (clockAhead: number) => faults.start({ concurrency: 5 }, { clockAhead })
  const processes = await Promise.all(aheads.map(start))
  const file = rawConnection(join(folder, `${faults.queue}.db`))
  t.teardown(() => file.close())
  const record = () => file.prepare('SELECT last, last_id, next, skipped FROM schedules').get() as { last: number | null, last_id: string, next: number, skipped: number }
  // What a process has taken a due time for is stored with the time of its own clock, which that due time is the latest of.
  const runs = () => file.prepare('SELECT id, added_at, state FROM tasks').all() as Array<{ id: string, added_at: number, state: string }>
  const more = async (count: number) => {
    const before = runs().length
    await until(`${count} more runs`, () => runs().length >= before + count)
  }

  await more(3)
  for (let kill = 0; kill < KILLS; kill++) {
    const { next } = record()
    // Around the moment, by the clock of the process that is ahead or by that of the others.
    await until('it is about due', () => Date.now() % EVERY_MS > EVERY_MS - 20)
    await sleep(Math.random() * 60)
    const index = kill % 3
    await processes[index]!.stop('SIGKILL')
    t.ok(record().next >= next)
    processes[index] = await start(aheads[index]!)
    await more(1)
  }
  await more(3)
  for (const process of processes) await process.stop('SIGTERM')
  processes[0] = await start(0)
  await until('all have run', () => runs().every(({ state }) => state === 'completed'))
  await faults.end()

  const due = runs().map(run => Math.floor(run.added_at / EVERY_MS))
  t.comment(`${due.length} runs, ${KILLS} kills`)
  t.equal(new Set(due).size, due.length, 'each due time once')
  const { last, last_id: lastId, skipped } = record()
  t.equal(Math.floor(runs().find(({ id }) => id === lastId)!.added_at / EVERY_MS) * EVERY_MS, last)
  t.equal(skipped, 0)
})
