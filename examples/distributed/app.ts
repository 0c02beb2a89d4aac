import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks, { defineTask } from '../../index'
import { bullmq } from '../../lib/backends/bullmq'
import { mountBoard } from './board'

export interface Options {
  /** `web` takes requests, `worker` runs tasks, `both` does both. */
  role: 'web' | 'worker' | 'both'
  /** `redis://…` or `postgres://…` */
  connection: string
  queue?: string
  logger?: FastifyServerOptions['logger']
}

interface Thumbnail {
  image: string
  width: number
}

/** The same definitions for the web server and for the worker. */
const makeThumbnail = defineTask('make-thumbnail', async ({ image, width }: Thumbnail, ctx) => {
  ctx.log.info(`attempt ${ctx.attempt}: ${image} becomes ${width} pixels wide`)
  return { image, width, worker: process.pid }
}, { attempts: 5, backoff: { type: 'exponential', delay: 1000, jitter: 0.5 }, timeout: 60_000 })

export async function build ({ role, connection, queue = 'thumbnails', logger = false }: Options): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, {
    tasks: [makeThumbnail],
    backend: bullmq({ connection, queue }),
    worker: role === 'web' ? false : { concurrency: 10 }
  })
  if (role === 'worker') return app

  app.post<{ Body: Thumbnail }>('/thumbnails', async (request, reply) => {
    const { id } = request.backgroundTasks.add({ dedupe: `${request.body.image} ${request.body.width}` }, makeThumbnail, request.body)
    reply.code(202).header('location', `/thumbnails/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/thumbnails/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    if (task === null) return reply.callNotFound()
    return { state: task.state, attempts: task.attempts, result: task.result }
  })

  await mountBoard(app, { connection, queue, path: '/queues' })
  return app
}
