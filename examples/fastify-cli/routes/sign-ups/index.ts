import type { FastifyInstance } from 'fastify'
import { welcome } from '../../plugins/background-tasks'

export default async function signUps (fastify: FastifyInstance): Promise<void> {
  fastify.post<{ Params: { email: string } }>('/:email', async (request, reply) => {
    request.backgroundTasks.add(welcome, { email: request.params.email })
    reply.code(202)
    return { message: 'Signed up' }
  })
}
