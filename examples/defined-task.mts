import Fastify from 'fastify'
import backgroundTasks, { defineTask } from 'fastify-background-tasks'

interface Receipt {
  order: string
  email: string
}

const sendReceipt = defineTask('send-receipt', async ({ order, email }: Receipt, ctx) => {
  ctx.log.info(`attempt ${ctx.attempt}: the receipt of order ${order} goes to ${email}`)
}, { attempts: 3, backoff: { type: 'exponential', delay: 1000 } })

const app = Fastify({ logger: true })
await app.register(backgroundTasks, { tasks: [sendReceipt] })

app.post<{ Body: Receipt }>('/receipts', async (request, reply) => {
  const { order, email } = request.body
  const task = request.backgroundTasks.add(sendReceipt, { order, email })
  reply.code(202)
  return { task: task.id }
})

app.get<{ Params: { id: string } }>('/receipts/:id', async (request) => {
  const task = await app.backgroundTasks.find(request.params.id)
  return { state: task?.state ?? 'unknown' }
})

await app.listen({ port: 3000 })
