import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { runIdOf } from '../../lib/backends/bullmq/schedules'
import type { ScheduleRecord } from '../../lib/backends/bullmq/schedule-record'
import { compile } from '../support/faults'
import type { ScheduleProcessOptions } from '../support/schedule-process'
import { newQueue, openKept } from '../support/schedules'
import { noPostgres, noRedis, postgres, redis } from '../support/services'
import { until } from '../support/until'

// Three workers whose clocks differ by half a minute. At each due time one of them is killed, and started again.

const EVERY_MS = 4_000
const CLOCKS_AHEAD_MS = [-30_000, 0, 30_000]
const ROUNDS = 3

async function processes (t: Test, connection: string): Promise<void> {
  const queue = newQueue()
  const program = compile(t.testdir({}), 'schedule-process')
  const start = async (clockAhead: number): Promise<ChildProcess> => {
    const options: ScheduleProcessOptions = { connection, queue, every: EVERY_MS, clockAhead }
    const child = fork(program, [JSON.stringify(options)], { env: { ...process.env, NODE_OPTIONS: '' }, execArgv: [] })
    t.teardown(() => child.kill('SIGKILL'))
    await once(child, 'message')
    return child
  }
  const kept = await openKept(t, connection, queue)
  const time = async () => (await kept.records.read([])).time
  const record = async () => JSON.parse((await kept.records.read(['s'])).texts.get('s')!) as ScheduleRecord

  const children = await Promise.all(CLOCKS_AHEAD_MS.map(start))
  const before = (await record()).takenUntil
  const dues: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const now = await time()
    const due = (Math.floor(now / EVERY_MS) + 1) * EVERY_MS
    dues.push(due)
    // From a little before it is due to a little after.
    await sleep(due - now - 10 + 15 * round)
    const index = round % children.length
    const exited = once(children[index]!, 'exit')
    children[index]!.kill('SIGKILL')
    await exited
    children[index] = await start(CLOCKS_AHEAD_MS[index]!)
  }
  const idOf = (due: number) => runIdOf(queue, 's', due)
  for (let due = dues[0]!; due <= dues.at(-1)!; due += EVERY_MS) {
    await until(`the run of ${due} is over`, async () => await kept.queue.getJobState(idOf(due)) === 'completed', () => sleep(50))
  }
  for (const child of children) child.kill('SIGKILL')
  const { takenUntil, skipped } = await record()
  t.equal(skipped, 0)
  const possible = new Set<string>()
  for (let due = Math.ceil(before / EVERY_MS) * EVERY_MS - EVERY_MS; due <= takenUntil; due += EVERY_MS) possible.add(idOf(due))
  const stored = await kept.queue.getJobs(['completed', 'waiting', 'active', 'delayed', 'failed'])
  t.same(stored.filter(({ id }) => !possible.has(id!)), [], 'no run but those of due times')
}

test('Redis: each due time has one run, whatever is killed, and whatever the clocks say', { skip: noRedis }, async t => {
  await processes(t, (await redis(t)).url)
})

test('Postgres: each due time has one run, whatever is killed, and whatever the clocks say', { skip: noPostgres }, async t => {
  await processes(t, (await postgres(t)).url)
})
