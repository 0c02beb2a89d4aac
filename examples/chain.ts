import Fastify, { type FastifyInstance } from 'fastify'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../index'

interface Order {
  order: string
  email: string
}

/** What the tasks have done. */
export const journal: string[] = []

const sendReceipt = defineTask('send-receipt', async ({ order, email }: Order) => {
  journal.push(`the receipt of order ${order} goes to ${email}`)
})

const charge = defineTask('charge', async ({ order, email }: Order, ctx) => {
  journal.push(`order ${order} is charged`)
  ctx.add(sendReceipt, { order, email })
}, { attempts: 3 })

const pack = defineTask('pack', async ({ order, email }: Order, ctx) => {
  journal.push(`order ${order} is packed`)
  // The same on every attempt: while the first one is not settled, a second one is dropped.
  ctx.add({ dedupe: `charge of ${ctx.id}` }, charge, { order, email })
}, { attempts: 3 })

/** Each task adds the next one. */
export async function build (options: BackgroundTasksOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(backgroundTasks, { ...options, tasks: [pack, charge, sendReceipt] })

  app.post<{ Body: Order }>('/orders', async (request, reply) => {
    request.backgroundTasks.add(pack, request.body)
    reply.code(202)
    return { accepted: request.body.order }
  })

  return app
}
