import underPressure from '@fastify/under-pressure'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  /** What a task does. */
  work?: () => Promise<unknown>
  /** How many tasks may be unfinished while the application still counts as healthy. */
  backlog?: number
  /** Milliseconds between two looks at them. */
  interval?: number
}

/** Refuses requests with 503 while too many tasks wait, and says so to a load balancer, before tasks are refused. */
export async function build ({ logger = false, work = () => sleep(1_000), backlog = 100, interval = 500 }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  // The last line of defence: `add` itself throws, which answers 503, too.
  await app.register(backgroundTasks, { concurrency: 10, maxPending: 10 * backlog })
  // After it: under-pressure takes its first look while it is registered.
  await app.register(underPressure, {
    maxEventLoopDelay: 1_000,
    healthCheck: async () => unfinished() < backlog,
    healthCheckInterval: interval,
    retryAfter: 5,
    exposeStatusRoute: '/health'
  })

  app.post('/orders', async (request, reply) => {
    request.backgroundTasks.add({ name: 'order' }, work)
    reply.code(202)
    return { unfinished: unfinished() }
  })

  function unfinished (): number {
    const { collecting, pending, running } = app.backgroundTasks.stats()
    return collecting + pending + running
  }

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
