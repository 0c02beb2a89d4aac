import fastifyRequestContext, { requestContext } from '@fastify/request-context'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { appendFile } from 'node:fs/promises'
import backgroundTasks from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  logFile?: string
}

declare module '@fastify/request-context' {
  interface RequestContextData {
    user: string
  }
}

export async function build ({ logger = false, logFile = 'audit.txt' }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  // In either order: a task has the context of the place that added it.
  await app.register(fastifyRequestContext)
  await app.register(backgroundTasks)

  app.addHook<{ Querystring: { user?: string } }>('onRequest', async request => {
    request.requestContext.set('user', request.query.user ?? 'anonymous')
  })

  app.delete<{ Params: { id: string } }>('/documents/:id', async (request, reply) => {
    request.backgroundTasks.add(audit, `deleted document ${request.params.id}`)
    reply.code(204)
  })

  // Nobody hands the user over: the request's context is still there, after the reply.
  async function audit (action: string): Promise<void> {
    await appendFile(logFile, `${requestContext.get('user')} ${action}\n`)
  }

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
