import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks, { defineTask } from '../index'
import { sqlite } from '../lib/backends/sqlite'

export interface Options {
  /** Where the tasks are kept. */
  file?: string
  logger?: FastifyServerOptions['logger']
}

interface Receipt {
  order: string
  email: string
}

const sendReceipt = defineTask('send-receipt', async ({ order, email }: Receipt, ctx) => {
  ctx.log.info(`the receipt of order ${order} goes to ${email}`)
  return { sentTo: email }
}, { attempts: 3, backoff: 1000 })

/** Keeps its tasks in a file: they are still there when it is started again. */
export async function build ({ file = './tasks.db', logger = false }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, {
    tasks: [sendReceipt],
    backend: sqlite({ file })
  })

  app.post<{ Body: Receipt, Querystring: { delay?: number } }>('/receipts', {
    schema: { querystring: { type: 'object', properties: { delay: { type: 'integer', minimum: 0 } } } }
  }, async (request, reply) => {
    const { id } = request.backgroundTasks.add({ delay: request.query.delay ?? 0 }, sendReceipt, request.body)
    reply.code(202).header('location', `/receipts/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/receipts/:id', async (request, reply) => {
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
