import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { sqlite } from '../lib/backends/sqlite'

/*
 * One application, whose tasks are kept where TASKS says:
 *
 *   node moving-up.js                                     in the process
 *   TASKS=./tasks.db node moving-up.js                    in a file
 *   TASKS=redis://127.0.0.1:6379 node moving-up.js        in Redis
 *   TASKS=postgres://127.0.0.1/app node moving-up.js      in PostgreSQL
 */

/** Where tasks are kept is one option. */
function backendFor (tasks: string | undefined): Pick<BackgroundTasksOptions, 'backend'> {
  if (tasks === undefined) return {}
  return { backend: /^(rediss?|postgres(ql)?):/.test(tasks) ? bullmq({ connection: tasks, queue: 'moving-up' }) : sqlite({ file: tasks }) }
}

interface Welcome {
  email: string
}

const sendWelcome = defineTask('send-welcome', async ({ email }: Welcome, ctx) => {
  ctx.log.info(`a welcome for ${email}, attempt ${ctx.attempt}`)
  return { sentTo: email }
}, { attempts: 3, backoff: 1000 })

export async function build (tasks: string | undefined, logger: FastifyServerOptions['logger'] = false): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, { tasks: [sendWelcome], ...backendFor(tasks) })

  app.post<{ Body: Welcome }>('/users', {
    schema: { body: { type: 'object', required: ['email'], properties: { email: { type: 'string' } } } }
  }, async (request, reply) => {
    const { id } = request.backgroundTasks.add(sendWelcome, request.body)
    reply.code(202).header('location', `/welcomes/${id}`)
    return { id }
  })

  app.get<{ Params: { id: string } }>('/welcomes/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    if (task === null) return reply.callNotFound()
    return { state: task.state, result: task.result }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build(process.env.TASKS, true)
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: Number(process.env.PORT ?? 3000) })
}

if (require.main === module) main()
