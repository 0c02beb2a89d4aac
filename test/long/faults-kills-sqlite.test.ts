import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { until } from '../support/until'
import { account, Faults } from '../support/faults'
import { signal } from '../support/server'
import { noSqlite } from '../support/sqlite'

const KILLS = 100

test(`kill -9 at ${KILLS} random moments, two processes at a time on one file: what was acknowledged runs`, { skip: noSqlite }, async t => {
  // A task may be the victim of several kills.
  const faults = new Faults(t, `sqlite:${t.testdir({})}`, { maxCrashes: KILLS })
  const acknowledged = new Set<number>()
  let next = 0
  let kills = 0

  async function killOne (worker: false | { concurrency: number }): Promise<void> {
    const victim = await faults.start(worker)
    let answers = Math.floor(Math.random() * 20)
    const { promise: enough, resolve } = signal()
    const clients = Promise.allSettled(Array.from({ length: 8 }, async () => {
      while (victim.alive) {
        const n = next++
        if (answers-- <= 0) resolve()
        const { status } = await victim.send('POST', `/record/${n}`)
        if (status === 202) acknowledged.add(n)
        else t.fail(`a process that lives answered with ${status}`)
      }
    }))
    await enough
    await sleep(Math.random() * 20)
    await victim.stop('SIGKILL')
    await clients
  }

  const begin = performance.now()
  // The one only writes; the other also runs tasks, and is killed in the middle of them.
  await Promise.all([false as const, { concurrency: 5 }].map(async worker => {
    while (kills++ < KILLS) await killOne(worker)
  }))
  t.comment(`${next} requests, ${Math.round(performance.now() - begin)} ms`)
  t.ok(acknowledged.size > KILLS)
  const worker = await faults.start({ concurrency: 20 })
  await until('all have run', () => {
    const ran = faults.ran()
    return [...acknowledged].every(n => ran.has(n))
  })
  account(t, acknowledged, faults.ran())
  t.ok(worker.alive)
  await faults.end()
})
