import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks, { defineTask } from '../../index'
import { celery } from '../../lib/backends/celery'

export interface Options {
  broker: string
  results: string
  logger?: FastifyServerOptions['logger']
}

interface Picture { key: string, width: number }
interface Resized { key: string, pixels: number }

/** Runs in a Celery worker: tasks.py. */
const resize = defineTask<Picture, Resized>('shop.resize')

/** Runs here. The Celery worker sends it. */
const announce = defineTask('web.announce', async ({ key, pixels }: Resized, ctx) => {
  ctx.log.info(`${key} is ready: ${pixels} pixels`)
  return `told everybody of ${key}`
})

export async function build ({ broker, results, logger = false }: Options): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, {
    tasks: [resize, announce],
    backend: celery({ broker, results, queue: 'web', routes: { 'shop.*': 'celery' } })
  })

  app.post<{ Params: { key: string } }>('/pictures/:key', async (request, reply) => {
    const { id } = request.backgroundTasks.add(resize, { key: request.params.key, width: 640 })
    reply.code(202).header('location', `/tasks/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/tasks/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    if (task === null) return reply.callNotFound()
    return { state: task.state, progress: task.progress, result: task.result, error: (task.error as Error | undefined)?.message }
  })
  return app
}
