import Fastify from 'fastify'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import type { AddressInfo } from 'node:net'
import backgroundTasks, { defineTask, type TaskContext, type TransactionClient } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { celery } from '../../lib/backends/celery'
import { sqlite } from '../../lib/backends/sqlite'
import { type Database, loadSqlite } from '../../lib/backends/sqlite/node-sqlite'

/*
 * A process of the fault tests: the same application as a web server or as a worker. What its tasks do, it writes to a
 * file, line by line, so that it outlives a kill -9.
 */

export interface FaultOptions {
  /** Of Redis, Postgres or RabbitMQ, or `sqlite:` and the path of a folder, where each queue is a file. */
  connection: string
  queue: string
  journal: string
  worker: false | { concurrency: number }
  maxCrashes?: number
  /** With RabbitMQ: the Redis for results. */
  results?: string
  /** A table with the column `n`, for what a request writes in one transaction with its task. */
  orders?: string
  /** Milliseconds that the clock of this process is ahead. */
  clockAhead?: number
  /** The milliseconds of a schedule. */
  every?: number
  /** When the worker of a task `lead` dies: right after its `ctx.add`, or when the backend has answered. */
  dies?: 'after the add' | 'when it is stored'
}

const options = JSON.parse(process.argv[2] as string) as FaultOptions

const { now } = Date
Date.now = () => now() + (options.clockAhead ?? 0)

function note (...words: unknown[]): void {
  appendFileSync(options.journal, `${words.join(' ')}\n`)
}

const record = defineTask('record', async (n: number, ctx: TaskContext) => {
  note('ran', n, ctx.attempt, process.pid)
})

const slow = defineTask('slow', async ({ n, ms }: { n: number, ms: number }, ctx: TaskContext) => {
  note('began', n, ctx.attempt, process.pid)
  await sleep(ms)
  note('ran', n, ctx.attempt, process.pid)
})

function die (): Promise<never> {
  process.kill(process.pid, 'SIGKILL')
  return new Promise(() => {})
}

const poison = defineTask('poison', async (n: number, ctx: TaskContext) => {
  note('began', n, ctx.attempt, process.pid)
  await die()
}, { attempts: 1 })

/** With a delay it has a dedupe id. */
const lead = defineTask('lead', async ({ n, delay }: { n: number, delay: number }, ctx: TaskContext) => {
  const handle = ctx.add(delay === 0 ? {} : { delay, dedupe: `record of ${ctx.id}` }, record, n)
  note('added', n, ctx.attempt, process.pid)
  if (options.dies === 'after the add') await die()
  while (handle.state === 'collecting' || handle.state === 'pending') await sleep(5)
  note(handle.state, n, ctx.attempt, process.pid)
  if (options.dies === 'when it is stored') await die()
})

const tick = defineTask('tick', async () => {})

/** The file of a queue; `null` on a server. */
function fileOf ({ connection, queue }: Pick<FaultOptions, 'connection' | 'queue'>): string | null {
  const folder = /^sqlite:(.*)/.exec(connection)?.[1]
  return folder === undefined ? null : join(folder, `${queue}.db`)
}

function backendOf (options: FaultOptions) {
  const { connection, queue, maxCrashes = 5, results } = options
  const file = fileOf(options)
  if (file !== null) return sqlite({ file, lockDuration: 1_000, pollInterval: 100, maxCrashes })
  if (connection.startsWith('amqp:')) return celery({ broker: connection, queue, maxCrashes, ...(results !== undefined && { results }) })
  return bullmq({ connection, queue, lockDuration: 1_000, stalledInterval: 500, maxCrashes })
}

let pool: import('pg').Pool | null = null
let database: Database | null = null

/** Begins a transaction of the user's. On SQLite there is one at a time. */
async function begin (): Promise<{ client: TransactionClient, run: (sql: string) => unknown }> {
  const file = fileOf(options)
  if (file !== null) {
    const { DatabaseSync } = loadSqlite('SQLite')
    const client = database ??= new DatabaseSync(file)
    client.exec('PRAGMA busy_timeout = 30000')
    client.exec('BEGIN IMMEDIATE')
    return { client, run: sql => client.exec(sql) }
  }
  const { Pool } = await import('pg')
  pool ??= new Pool({ connectionString: options.connection })
  const client = await pool.connect()
  await client.query('BEGIN')
  return {
    client,
    async run (sql) {
      await client.query(sql)
      if (!sql.startsWith('INSERT')) client.release()
    }
  }
}

async function main (): Promise<void> {
  const app = Fastify({ forceCloseConnections: true })
  const { connection, worker } = options
  // Their import takes longer than storeTimeout on a busy machine.
  if (!/^(sqlite|amqp):/.test(connection)) await Promise.all([import('bullmq'), import('ioredis'), import('pg')])
  await app.register(backgroundTasks, {
    tasks: [record, slow, poison, lead, tick],
    ...(options.every !== undefined && { schedules: { tick: { task: tick, every: options.every, overlap: true } } }),
    worker,
    storeTimeout: 2_000,
    backend: backendOf(options)
  })
  app.post<{ Params: { n: string } }>('/record/:n', async (request, reply) => {
    reply.code(202)
    return { id: request.backgroundTasks.add(record, Number(request.params.n)).id }
  })
  app.post<{ Params: { n: string, ms: string } }>('/slow/:n/:ms', async (request, reply) => {
    reply.code(202)
    return { id: request.backgroundTasks.add(slow, { n: Number(request.params.n), ms: Number(request.params.ms) }).id }
  })
  app.post<{ Params: { n: string } }>('/poison/:n', async (request, reply) => {
    reply.code(202)
    return { id: request.backgroundTasks.add(poison, Number(request.params.n)).id }
  })
  app.post<{ Params: { n: string, delay: string } }>('/lead/:n/:delay', async (request, reply) => {
    reply.code(202)
    return { id: request.backgroundTasks.add(lead, { n: Number(request.params.n), delay: Number(request.params.delay) }).id }
  })
  app.post<{ Params: { n: string, end: string } }>('/order/:n/:end', async request => {
    const n = Number(request.params.n)
    const { client, run } = await begin()
    await run(`INSERT INTO ${options.orders} VALUES (${n})`)
    await turn()
    await request.backgroundTasks.addInTransaction(client, record, n)
    await turn()
    await run(request.params.end)
    return {}
  })
  app.get<{ Params: { id: string } }>('/tasks/:id', async request => {
    const info = await app.backgroundTasks.find(request.params.id)
    return { ...info, error: (info?.error as Error | undefined)?.message }
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  process.send!((app.server.address() as AddressInfo).port)
  process.once('SIGTERM', () => app.close().then(() => process.disconnect()))
  // The test is gone, or has had its answer.
  process.once('disconnect', () => process.exit())
}

main()
