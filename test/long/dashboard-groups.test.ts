import { randomUUID } from 'node:crypto'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { sqlite } from '../../lib/backends/sqlite'
import { dashboard } from '../../lib/dashboard'
import type { GroupResult } from '../../lib/dashboard/protocol'
import type { TaskBackend } from '../../types/backend'
import { actOnGroup, openStream, OWN_PAGE, type Told } from '../support/dashboard'
import { createApp, listen } from '../support/server'
import { noPostgres, noRedis, postgres, redis } from '../support/services'
import { newFile, noSqlite } from '../support/sqlite'
import { until } from '../support/until'

/*
 * A group of more failed tasks than one action takes is run again, or dismissed, whole: every task once, also those that fail again, and
 * others have their turn.
 */

const FAILED = 2_500
const PER_REQUEST = 500
/** The newest failed tasks that are grouped, and that one action takes. */
const GROUPED = 2_000

const BACKENDS: Array<[name: string, skip: string | false, create: (t: Test) => Promise<TaskBackend>]> = [
  ['SQLite', noSqlite, async t => sqlite({ file: newFile(t), retain: { failed: { count: 10_000, age: 86_400 } } })],
  ['Redis', noRedis, async t => bullmq({ connection: (await redis(t)).url, queue: `groups-${randomUUID()}` })],
  ['PostgreSQL', noPostgres, async t => bullmq({ connection: (await postgres(t)).url, queue: `groups-${randomUUID()}` })]
]

for (const [name, skip, create] of BACKENDS) {
  test(`a group of ${FAILED} failed tasks in ${name}`, { skip }, async t => {
    let isBroken = true
    const ran = new Map<number, number>()
    const tries = new Map<number, number>()
    const task = defineTask('fails', async (n: number) => {
      tries.set(n, (tries.get(n) ?? 0) + 1)
      if (isBroken) throw new Error(`order ${n} has no address`)
      ran.set(n, (ran.get(n) ?? 0) + 1)
    })
    const { app } = await createApp(t, { tasks: [task], backend: await create(t), worker: { concurrency: 50 } })
    await app.register(dashboard, { prefix: '/tasks' })
    app.post('/', async request => {
      for (let i = 0; i < PER_REQUEST; i++) request.backgroundTasks.add(task, next++)
      return 'x'
    })
    let next = 0
    const { url } = await listen(app)
    const viewer = await openStream(t, `${url}/tasks/events`)
    async function fill (): Promise<string> {
      tries.clear()
      isBroken = true
      for (let i = 0; i < FAILED / PER_REQUEST; i++) await fetch(url, { method: 'POST' })
      const { failures } = await viewer.until(({ totals, failures }) => totals.failed === FAILED && failures.groups[0]?.count === GROUPED)
      t.match(failures, { of: GROUPED, groups: { length: 1, 0: { name: 'fails', again: GROUPED, dismissible: true } } })
      return failures.groups[0]!.id
    }
    const act = (path: string) => actOnGroup(async path => {
      let turns = 0
      let isOver = false
      const turn = () => {
        turns++
        if (!isOver) setImmediate(turn)
      }
      turn()
      const result = await (await fetch(`${url}/tasks/groups/${path}`, { method: 'POST', headers: OWN_PAGE })).json() as GroupResult
      isOver = true
      t.ok(turns >= result.done / 100, `${turns} turns of the event loop for ${result.done} tasks`)
      return result
    }, path)
    const isEmpty = ({ totals, failures }: Told) => totals.failed === 0 && totals.running + totals.waiting + totals.later === 0 && failures.groups.length === 0

    const group = await fill()
    t.equal(await act(`${group}/run-again`), FAILED, 'as many run again as had failed, though they fail again')
    await until('all fail again', () => [...tries.values()].every(times => times === 2))
    await viewer.until(({ totals, failures }) => totals.failed === FAILED && failures.groups[0]?.count === GROUPED)
    t.equal(ran.size, 0)

    isBroken = false
    t.equal(await act(`${group}/run-again`), FAILED)
    await until('all run', () => ran.size === FAILED)
    t.ok([...ran.values()].every(times => times === 1), 'each once')
    await viewer.until(isEmpty)

    t.equal(await act(`${await fill()}/dismiss`), FAILED)
    await viewer.until(isEmpty)
    t.equal(ran.size, FAILED, 'none of those runs')
  })
}
