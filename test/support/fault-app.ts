import Fastify from 'fastify'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AddressInfo } from 'node:net'
import backgroundTasks, { defineTask, type TaskContext } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { sqlite } from '../../lib/backends/sqlite'

/*
 * A process of the fault tests: the same application as a web server or as a worker. What its tasks do, it writes to a
 * file, line by line, so that it outlives a kill -9.
 */

export interface FaultOptions {
  /** Of Redis or Postgres, or `sqlite:` and the path of a folder, where each queue is a file. */
  connection: string
  queue: string
  journal: string
  worker: false | { concurrency: number }
  maxCrashes?: number
}

const options = JSON.parse(process.argv[2] as string) as FaultOptions

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

const poison = defineTask('poison', async (n: number, ctx: TaskContext) => {
  note('began', n, ctx.attempt, process.pid)
  process.kill(process.pid, 'SIGKILL')
  await new Promise(() => {})
}, { attempts: 1 })

async function main (): Promise<void> {
  const app = Fastify({ forceCloseConnections: true })
  const { connection, queue, worker, maxCrashes = 5 } = options
  const folder = /^sqlite:(.*)/.exec(connection)?.[1]
  // Their import takes longer than storeTimeout on a busy machine.
  if (folder === undefined) await Promise.all([import('bullmq'), import('ioredis'), import('pg')])
  await app.register(backgroundTasks, {
    tasks: [record, slow, poison],
    worker,
    storeTimeout: 2_000,
    backend: folder === undefined
      ? bullmq({ connection, queue, lockDuration: 1_000, stalledInterval: 500, maxCrashes })
      : sqlite({ file: join(folder, `${queue}.db`), lockDuration: 1_000, pollInterval: 100, maxCrashes })
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
