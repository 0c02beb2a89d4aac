import Fastify, { type FastifyError, type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { appendFile } from 'node:fs/promises'
import backgroundTasks from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  logFile?: string
}

interface Payment {
  Params: { order: string }
  Querystring: { card: string }
}

const querystring = { type: 'object', required: ['card'], properties: { card: { type: 'string' } } }

/** Which tasks run when a handler throws. */
export async function build ({ logger = false, logFile = 'log.txt' }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks)

  app.post<Payment>('/payments/:order', { schema: { querystring } }, async request => {
    const { order } = request.params
    // The default: dropped if the request fails with an error after this line.
    request.backgroundTasks.add(writeLine, `receipt for ${order}`)
    request.backgroundTasks.add({ runOn: 'failure' }, writeLine, `reservation of ${order} taken back`)
    request.backgroundTasks.add({ runOn: 'always' }, writeLine, `attempt to pay ${order}`)
    await charge(request.query.card)
    return { paid: order }
  })

  // What an error handler adds comes after the error, and runs.
  app.setErrorHandler<FastifyError>(async (error, request, reply) => {
    request.backgroundTasks.add(writeLine, `alert: ${error.message}`)
    return reply.send(error)
  })

  async function charge (card: string): Promise<void> {
    if (card === 'stolen') throw Object.assign(new Error('The card was refused'), { statusCode: 402 })
  }

  async function writeLine (line: string): Promise<void> {
    await appendFile(logFile, `${line}\n`)
  }

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
