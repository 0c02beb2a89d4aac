import { appendFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import backgroundTasks from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  logFile?: string
  /** Milliseconds that each line takes to be written, as if a slow mail server had to be asked first. */
  latency?: number
}

interface Notification {
  Params: { email: string }
  Querystring: { q?: string }
}

const querystring = { type: 'object', properties: { q: { type: 'string' } } }

export async function build ({ logger = false, logFile = 'log.txt', latency = 0 }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks)

  app.post<Notification>('/send-notification/:email', async (request) => {
    request.backgroundTasks.add(writeNotification, request.params.email, 'some notification')
    return { message: 'Notification sent in the background' }
  })

  app.post<Notification>('/send-notification-with-query/:email', { schema: { querystring }, preHandler: logQuery }, async (request) => {
    request.backgroundTasks.add(writeLine, `message to ${request.params.email}`)
    return { message: 'Message sent' }
  })

  // Hooks, handlers and the functions they call all add to the one collector of the request.
  async function logQuery (request: FastifyRequest<Notification>): Promise<void> {
    const { q } = request.query
    if (q) request.backgroundTasks.add(writeLine, `found query: ${q}`)
  }

  async function writeNotification (email: string, message: string): Promise<void> {
    await writeLine(`notification for ${email}: ${message}`)
  }

  async function writeLine (line: string): Promise<void> {
    await sleep(latency)
    await appendFile(logFile, `${line}\n`)
  }

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  // Closing waits for the tasks; a process that just ends loses them.
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
