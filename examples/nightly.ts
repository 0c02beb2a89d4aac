import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks, { defineTask } from '../index'
import type { TaskBackend } from '../types/backend'

export interface Options {
  /** Where the tasks are kept; in the process without it. */
  backend?: TaskBackend
  logger?: FastifyServerOptions['logger']
}

const cleanUp = defineTask('clean-up', async ({ days }: { days: number }, ctx) => {
  ctx.log.info(`sessions that are older than ${days} days are removed`)
  return { days }
}, { attempts: 3, backoff: 60_000 })

const report = defineTask('report', async (_payload: undefined, ctx) => {
  ctx.log.info('the report is written')
})

/** Cleans up each night, and writes a report each hour. */
export async function build ({ backend, logger = false }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, {
    tasks: [cleanUp, report],
    ...(backend !== undefined && { backend }),
    schedules: {
      'nightly-clean-up': { task: cleanUp, cron: '0 3 * * *', timezone: 'Europe/Berlin', payload: { days: 30 } },
      report: { task: report, every: 3_600_000 }
    }
  })

  app.get('/schedules', async () => app.backgroundTasks.schedules())

  app.post<{ Params: { id: string } }>('/schedules/:id/run', async (request, reply) => {
    const task = await app.backgroundTasks.runSchedule(request.params.id)
    if (task === null) return reply.code(409).send({ message: 'the last run has not ended' })
    reply.code(202)
    return { id: task.id }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
