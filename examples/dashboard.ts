import basicAuth from '@fastify/basic-auth'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks, { defineTask } from '../index'
import { dashboard } from '../lib/dashboard'

export interface Options {
  logger?: FastifyServerOptions['logger']
  user?: string
  password?: string
}

const resize = defineTask('resize', async ({ pages }: { pages: number }, ctx) => {
  for (let page = 1; page <= pages; page++) {
    await sleep(500, undefined, { signal: ctx.signal })
    ctx.progress({ page, pages })
  }
})

const notify = defineTask('notify', async ({ email }: { email: string }) => {
  throw new Error(`no mailbox ${email}`)
}, { attempts: 3, backoff: 10_000 })

/** Shows at /tasks/ what runs, to those who know the password. */
export async function build ({ logger = false, user = 'admin', password = '' }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, { tasks: [resize, notify], concurrency: 4 })

  await app.register(basicAuth, {
    authenticate: { realm: 'Background tasks' },
    validate: async (given, secret) => {
      if (password === '' || given !== user || secret !== password) throw new Error('Wrong user or password')
    }
  })

  await app.register(dashboard, {
    prefix: '/tasks',
    preHandler: app.basicAuth
  })

  app.post<{ Params: { pages: number } }>('/resize/:pages', async request => {
    request.backgroundTasks.add(resize, { pages: Number(request.params.pages) })
    request.backgroundTasks.add(notify, { email: 'someone@example.com' })
    return { message: 'Pages are resized in the background' }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true, password: process.env.PASSWORD ?? '' })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
