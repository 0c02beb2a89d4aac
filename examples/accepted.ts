import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  /** Where the tasks are kept; without one, in this process. */
  backend?: BackgroundTasksOptions['backend']
  /** How long a page takes, in ms. */
  pageTime?: number
}

interface Report {
  pages: number
}

/** Answers a long request with 202 and a `Location`, where the client can watch the work and fetch its result. */
export async function build ({ logger = false, backend, pageTime = 500 }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })

  const writeReport = defineTask('write-report', async ({ pages }: Report, ctx) => {
    for (let page = 1; page <= pages; page++) {
      await sleep(pageTime)
      ctx.progress({ page, pages })
    }
    return { file: `report-${ctx.id}.pdf` }
  }, { attempts: 3, backoff: 1000 })

  await app.register(backgroundTasks, { tasks: [writeReport], ...(backend === undefined ? {} : { backend }) })

  app.post<{ Body: Report }>('/reports', {
    schema: { body: { type: 'object', required: ['pages'], properties: { pages: { type: 'integer', minimum: 1 } } } }
  }, async (request, reply) => {
    const { id } = request.backgroundTasks.add(writeReport, request.body)
    reply.code(202).header('location', `/reports/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/reports/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    if (task === null) return reply.callNotFound()
    const { state, progress, result } = task
    // What went wrong is for the log: the client learns only that it did.
    return { state, progress, result }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
