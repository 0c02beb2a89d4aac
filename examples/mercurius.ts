import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import mercurius, { type MercuriusContext } from 'mercurius'
import backgroundTasks from '../index'

/** Where mails go. A test may look at it. */
export const outbox: string[] = []

async function sendMail (to: string, text: string): Promise<void> {
  outbox.push(`${to}: ${text}`)
}

const schema = `
  type Query { version: String }
  type Mutation { signUp (email: String!): String }
`

const resolvers = {
  Query: { version: () => '1' },
  Mutation: {
    signUp (_root: unknown, { email }: { email: string }, { reply }: MercuriusContext) {
      const { backgroundTasks } = reply.request
      backgroundTasks.add(sendMail, email, 'welcome')
      backgroundTasks.add({ runOn: 'failure' }, sendMail, email, 'please try again')
      if (email.endsWith('@example.org')) throw new mercurius.ErrorWithProps('not for this address')
      return email
    }
  }
}

export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  const failed = new WeakSet<FastifyRequest>()
  await app.register(backgroundTasks, { outcome: request => failed.has(request) ? 'failure' : undefined })
  await app.register(mercurius, { schema, resolvers, allowBatchedQueries: true })
  // An answer with errors has the status 200.
  app.graphql.addHook('onResolution', async ({ errors }, { reply }) => {
    if (errors !== undefined) failed.add(reply.request)
  })
  return app
}
