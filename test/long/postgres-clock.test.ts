import { Queue, createPostgresBackend } from 'bullmq'
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { defineTask, type TaskContext } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { ServerClock } from '../../lib/backends/bullmq/postgres/clock'
import { createApp } from '../support/server'
import { noPostgres, postgres } from '../support/services'
import { until } from '../support/until'

// Whatever a machine whose clock is wrong writes to Postgres is right by the server's clock.

const MINUTE = 60_000

function setClock (t: Test, ahead: number): void {
  const { now } = Date
  Date.now = () => now() + ahead
  t.teardown(() => { Date.now = now })
}

test('the server\'s clock is asked for now and then, and what was measured stays where it does not answer in time', async t => {
  let asked = 0
  let answer = async () => Date.now() + MINUTE
  const clock = new ServerClock(() => {
    asked++
    return answer()
  })
  const isMinute = (ahead: number) => Math.abs(ahead - MINUTE) < MINUTE / 2
  const both = await Promise.all([clock.ahead(), clock.ahead()])
  t.ok(both.every(isMinute))
  t.equal(asked, 1, 'once for all')
  for (const failing of [() => Promise.reject(new Error('away')), () => sleep(2_100, Date.now() - MINUTE)]) {
    answer = failing
    const before = asked
    setClock(t, 1_000)
    t.ok(isMinute(await clock.ahead()))
    t.equal(asked, before + 1)
  }
  answer = async () => Date.now() - MINUTE
  t.ok(await clock.ahead() < -MINUTE / 2)
  answer = async () => Date.now()
  setClock(t, 1_000)
  t.equal(await clock.ahead(), 0)
})

test('Postgres: a machine whose clock is wrong', { skip: noPostgres }, async t => {
  const { url } = await postgres(t)

  for (const ahead of [MINUTE, -MINUTE]) {
    await t.test(`${Math.abs(ahead) / 1_000} s ${ahead > 0 ? 'ahead' : 'behind'}`, async t => {
      const queue = `clock-${randomUUID()}`
      setClock(t, ahead)
      const gate = { open: false }
      const waits = defineTask('waits', async (_payload: undefined, ctx: TaskContext) => {
        ctx.progress(1)
        await until('the gate', () => gate.open)
      })
      const flaky = defineTask('flaky', async (_payload: undefined, ctx: TaskContext) => {
        if (ctx.attempt === 1) throw new Error('once')
      }, { attempts: 2, backoff: 200 })
      const options = { tasks: [waits, flaky], backend: bullmq({ connection: url, queue, lockDuration: 1_000, stalledInterval: 200 }), storeTimeout: 20_000 }
      const { app } = await createApp(t, options)
      t.teardown(() => { gate.open = true })
      await app.ready()
      const client = new Client({ connectionString: url, options: '-c search_path=bullmq' })
      t.teardown(() => client.end())
      await client.connect()
      const times = async (id: string): Promise<Record<string, number>> => {
        const { rows } = await client.query(`
          SELECT extract(epoch FROM clock_timestamp()) * 1000 - added_at_ms AS added, extract(epoch FROM clock_timestamp()) * 1000 - processed_at_ms AS processed,
                 locked_until_ms - extract(epoch FROM clock_timestamp()) * 1000 AS locked FROM job WHERE queue = $1 AND id = $2`, [queue, id])
        return Object.fromEntries(Object.entries(rows[0]).map(([name, value]) => [name, Number(value)]))
      }
      const handle = app.backgroundTasks.add(waits)
      // With another one, and one with a dedupe id: each is stored in a way of its own.
      const others = [app.backgroundTasks.add({ delay: 100 }, flaky), app.backgroundTasks.add({ delay: 100, dedupe: 'x' }, flaky)]
      const { id } = handle
      await until('it runs', async () => (await app.backgroundTasks.find(id))?.progress === 1)
      const { added, processed, locked } = await times(id)
      for (const [name, value] of Object.entries({ added, processed })) t.ok(value! > -1_000 && value! < MINUTE / 2, `${name} ${value} ms ago`)
      t.ok(locked! > 0 && locked! <= 2_000, `locked for ${locked} ms`)
      const { tasks } = await options.backend.list!(10)
      t.ok(Math.abs(tasks.find(task => task.id === id)!.since! - Date.now()) < MINUTE / 2, 'and right by its own clock where it is shown')
      for (const other of others) t.equal(await other.settled(), 'completed', 'delays and backoffs are as long as they should be')
      // Its lock has to have been renewed by then.
      await until('two seconds have passed on the server', async () => (await times(id)).processed! > 2_000)
      t.ok((await times(id)).locked! > 0, 'its lock is renewed')
      gate.open = true
      t.equal(await handle.settled(), 'completed')
      t.match(await app.backgroundTasks.find(id), { attempts: 1 })
    })
  }

  await t.test('set while the process runs', async t => {
    const queue = `clock-${randomUUID()}`
    const task = defineTask('task', async () => {})
    const { app } = await createApp(t, { tasks: [task], backend: bullmq({ connection: url, queue }) })
    await app.ready()
    t.equal(await app.backgroundTasks.add({ delay: 50 }, task).settled(), 'completed')
    setClock(t, MINUTE)
    t.equal(await app.backgroundTasks.add({ delay: 50 }, task).settled(), 'completed')
    const late = app.backgroundTasks.add({ delay: 30_000 }, task)
    await app.backgroundTasks.flush()
    const other = new Queue(queue, { connection: { connectionString: url } as never }, createPostgresBackend as never)
    t.teardown(() => other.close())
    const { timestamp } = (await other.getJob(late.id))!
    t.ok(Math.abs(timestamp - (Date.now() - MINUTE)) < MINUTE / 2, 'it is due by the server\'s clock')
  })
})
