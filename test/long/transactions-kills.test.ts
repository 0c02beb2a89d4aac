import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { test, type Test } from 'tap'
import { Faults } from '../support/faults'
import { noPostgres, postgres } from '../support/services'
import { noSqlite, rawConnection } from '../support/sqlite'
import { until } from '../support/until'

/*
 * Processes that write a row and a task in one transaction, half of which are rolled back. Each third process is killed at a random
 * moment. The tasks that run are the rows that are there.
 */

const TRANSACTIONS = 1_000
const EACH = 40

interface Place {
  faults: Faults
  /** How many transactions one process has open at once. */
  clients: number
  /** The rows that were committed. */
  committed: () => Promise<number[]> | number[]
}

async function killsAndCommits (t: Test, { faults, clients, committed }: Place): Promise<void> {
  let next = 0
  let begun = 0
  let processes = 0
  let kills = 0
  const acknowledged = new Set<number>()

  async function writeFromOne (): Promise<void> {
    const isVictim = ++processes % 3 === 0
    let killAt = isVictim ? Math.floor(EACH * (0.3 + Math.random() * 0.6)) : Infinity
    const process = await faults.start(false)
    const numbers = Array.from({ length: EACH }, () => next++)
    const write = async () => {
      for (let n = numbers.shift(); n !== undefined && process.alive; n = numbers.shift()) {
        begun++
        // In the midst of what is under way.
        if (EACH - numbers.length > killAt) {
          killAt = Infinity
          kills++
          sleep(Math.random() * 10).then(() => process.stop('SIGKILL'))
        }
        const end = n % 2 === 0 ? 'COMMIT' : 'ROLLBACK'
        const { status, body } = await process.send('POST', `/order/${n}/${end}`)
        if (status !== 200) t.fail(`${end} of ${n}: ${JSON.stringify(body)}`)
        else if (end === 'COMMIT') acknowledged.add(n)
      }
    }
    const ends = await Promise.allSettled(Array.from({ length: clients }, write))
    if (!isVictim) for (const end of ends) if (end.status === 'rejected') throw end.reason
    await process.stop('SIGKILL')
  }

  const begin = performance.now()
  const worker = await faults.start({ concurrency: 5 })
  await Promise.all([1, 2].map(async () => { while (begun < TRANSACTIONS) await writeFromOne() }))
  const rows = await committed()
  await until('the tasks of all rows have run', () => {
    const ran = faults.ran()
    return rows.every(n => ran.has(n))
  }, () => sleep(100))
  // A task behind all others, so that one too many would have run before it.
  const last = await faults.start(false)
  await last.send('POST', '/record/-1')
  await until('the last one has run', () => faults.ran().has(-1))
  const ran = faults.ran()
  ran.delete(-1)
  t.comment(`${begun} transactions from ${processes} processes, ${kills} of them killed, in ${Math.round(performance.now() - begin)} ms: ${rows.length} rows, ${ran.size} tasks, ${rows.filter(n => !acknowledged.has(n)).length} committed without an answer, ${[...ran.values()].filter(times => times > 1).length} ran more than once`)
  t.same([...ran.keys()].sort((a, b) => a - b), rows, 'each row has its task, and each task its row')
  t.ok([...acknowledged].every(n => rows.includes(n)), 'what was acknowledged is there')
  t.ok(kills >= Math.floor(processes / 3) && worker.alive)
  await faults.end()
}

test(`${TRANSACTIONS} transactions on Postgres, half of them rolled back, a third of the processes killed`, { skip: noPostgres }, async t => {
  const { url } = await postgres(t)
  const client = new Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  const orders = `orders_${randomUUID().replaceAll('-', '')}`
  await client.query(`CREATE TABLE ${orders} (n integer)`)
  const committed = async () => (await client.query(`SELECT n FROM ${orders} ORDER BY n`)).rows.map(({ n }) => n)
  await killsAndCommits(t, { faults: new Faults(t, url, { orders }), clients: 4, committed })
})

test(`${TRANSACTIONS} transactions on SQLite, half of them rolled back, a third of the processes killed`, { skip: noSqlite }, async t => {
  const folder = t.testdir({})
  const faults = new Faults(t, `sqlite:${folder}`, { orders: 'orders' })
  await (await faults.start(false)).stop('SIGTERM')
  const database = rawConnection(join(folder, `${faults.queue}.db`))
  t.teardown(() => database.close())
  database.exec('PRAGMA busy_timeout = 30000; CREATE TABLE orders (n INTEGER)')
  const committed = () => database.prepare('SELECT n FROM orders ORDER BY n').all().map(({ n }) => n as number)
  await killsAndCommits(t, { faults, clients: 1, committed })
})
