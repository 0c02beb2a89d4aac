import Fastify, { type FastifyInstance } from 'fastify'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../../index'

/** Milliseconds. */
const DAY = 86_400_000

/** Where mails go. A test may look at it. */
export const outbox: Array<{ to: string, text: string }> = []

export const sendMail = defineTask('send-mail', async (mail: { to: string, text: string }) => {
  outbox.push(mail)
}, { attempts: 3, backoff: { type: 'exponential', delay: 1_000 } })

export async function build (options: BackgroundTasksOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(backgroundTasks, { tasks: [sendMail], ...options })

  app.post<{ Params: { email: string } }>('/sign-up/:email', async (request, reply) => {
    const { email } = request.params
    request.backgroundTasks.add(sendMail, { to: email, text: 'Welcome' })
    reply.code(201)
    return { email }
  })

  app.post<{ Params: { email: string } }>('/invitations/:email', async (request, reply) => {
    const { email } = request.params
    request.backgroundTasks.add({ delay: DAY }, sendMail, { to: email, text: 'Your invitation is still open' })
    reply.code(201)
    return { email }
  })

  return app
}
