import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { join } from 'node:path'
// Also where only threads use it: a native library that its last thread has unloaded may not load a second time.
import 'sharp'
import backgroundTasks, { defineTask } from '../index'
import type { Picture, Thumbnail } from './thumbnail'

export interface Options {
  logger?: FastifyServerOptions['logger']
  /** Pixels. */
  width?: number
}

const KEPT = 100

/** Takes pictures, and makes thumbnails of them on worker threads while it goes on answering. */
export async function build ({ logger = false, width = 400 }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger, bodyLimit: 10 * 1024 * 1024 })

  // In an ES module: new URL('./thumbnail.js', import.meta.url)
  const makeThumbnail = defineTask<Picture, Thumbnail>('thumbnail', join(__dirname, 'thumbnail.js'), {
    local: true,
    // The uploaded image moves to the thread, instead of being copied.
    transfer: ({ image }) => [image],
    timeout: 60_000
  })
  await app.register(backgroundTasks, { tasks: [makeThumbnail], threads: { maxQueue: 20 } })

  /** The last ones, by the id of their task. */
  const pictures = new Map<string, string>()

  app.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, (_request, body, done) => done(null, body))

  app.post<{ Params: { name: string }, Body: Buffer }>('/pictures/:name', async (request, reply) => {
    const { name } = request.params
    const { id } = request.backgroundTasks.add(makeThumbnail, { name, image: request.body, width })
    pictures.set(id, name)
    if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value as string)
    reply.code(202).header('location', `/thumbnails/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/thumbnails/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    if (task?.state !== 'completed') return reply.callNotFound()
    return reply.type('image/jpeg').send(Buffer.from((task.result as Thumbnail).image))
  })

  app.get('/', async (_request, reply) => {
    const rows = await Promise.all([...pictures].map(async ([id, name]) => {
      const task = await app.backgroundTasks.find(id)
      const done = task?.state === 'completed' ? `<img src="/thumbnails/${id}" alt="">` : String(task?.progress ?? '')
      return `<tr><td>${escape(name)}</td><td>${task?.state ?? 'forgotten'}</td><td>${done}</td></tr>`
    }))
    return reply.type('text/html').send(`<!doctype html><title>Thumbnails</title><table>${rows.join('')}</table>`)
  })

  return app
}

function escape (text: string): string {
  return text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
