import multipart from '@fastify/multipart'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { createHash, randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import backgroundTasks, { defineTask } from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  /** Where uploads wait for their task. */
  folder?: string
  /** Bytes a file may have. */
  fileSize?: number
}

/** Takes a file, answers 202, and reads it after that. */
export async function build ({ logger = false, folder = tmpdir(), fileSize = 10_000_000 }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })

  const digest = defineTask('digest', async ({ path, name }: { path: string, name: string }, ctx) => {
    const hash = createHash('sha256')
    let size = 0
    for await (const chunk of createReadStream(path, { signal: ctx.signal })) {
      hash.update(chunk)
      size += chunk.length
    }
    // Only now: another attempt would need the file.
    await rm(path)
    return { name, size, sha256: hash.digest('hex') }
  }, { attempts: 3, backoff: 1000, timeout: 60_000 })

  await app.register(multipart, { limits: { fileSize, files: 1 } })
  await app.register(backgroundTasks, { tasks: [digest] })

  app.post('/files', async (request, reply) => {
    const upload = await request.file()
    if (upload === undefined) return reply.code(400).send({ message: 'Send one file, as multipart/form-data' })
    // The upload is part of the request: it has to be read before the reply. A place of our own for it, because what
    // `request.saveRequestFiles()` has saved is removed as soon as the reply has left.
    const path = join(folder, randomUUID())
    await pipeline(upload.file, createWriteStream(path))
    if (upload.file.truncated) {
      await rm(path)
      throw new app.multipartErrors.RequestFileTooLargeError()
    }
    const { id } = request.backgroundTasks.add(digest, { path, name: upload.filename })
    reply.code(202).header('location', `/files/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/files/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    if (task === null) return reply.callNotFound()
    return { state: task.state, result: task.result }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
