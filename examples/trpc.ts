import { initTRPC, TRPCError } from '@trpc/server'
import { fastifyTRPCPlugin, type CreateFastifyContextOptions, type FastifyTRPCPluginOptions } from '@trpc/server/adapters/fastify'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import backgroundTasks from '../index'

/** Where mails go. A test may look at it. */
export const outbox: string[] = []

async function sendMail (to: string, text: string): Promise<void> {
  outbox.push(`${to}: ${text}`)
}

function createContext ({ req }: CreateFastifyContextOptions) {
  return { tasks: req.backgroundTasks }
}

const t = initTRPC.context<typeof createContext>().create()

function email (input: unknown): string {
  if (typeof input !== 'string' || !input.includes('@')) throw new TRPCError({ code: 'BAD_REQUEST', message: 'this is no address' })
  return input
}

export const router = t.router({
  signUp: t.procedure.input(email).mutation(({ ctx, input }) => {
    ctx.tasks.add(sendMail, input, 'welcome')
    ctx.tasks.add({ runOn: 'failure' }, sendMail, input, 'please try again')
    if (input.endsWith('@example.org')) throw new TRPCError({ code: 'FORBIDDEN' })
    return { email: input }
  })
})

export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  // tRPC makes the answer of an error itself. A batch of calls is one request: it has failed when one of them has.
  const failed = new WeakSet<FastifyRequest>()
  await app.register(backgroundTasks, { outcome: request => failed.has(request) ? 'failure' : undefined })
  await app.register(fastifyTRPCPlugin, {
    prefix: '/trpc',
    trpcOptions: { router, createContext, onError: ({ req }) => { failed.add(req) } }
  } satisfies FastifyTRPCPluginOptions<typeof router>)
  return app
}
