import { Queue } from 'bullmq'
import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import { FastifyAdapter } from '@bull-board/fastify'
import type { FastifyInstance } from 'fastify'

/** Shows the queue in a browser. Whoever can open it can also remove and retry tasks: protect the path. */
export async function mountBoard (app: FastifyInstance, { connection, queue: name, path }: { connection: string, queue: string, path: string }): Promise<void> {
  // The board reads Redis; for a queue on Postgres there is none.
  if (!connection.startsWith('redis')) return
  const queue = new Queue(name, { connection: { url: connection } })
  app.addHook('onClose', () => queue.close())
  const serverAdapter = new FastifyAdapter()
  serverAdapter.setBasePath(path)
  createBullBoard({ queues: [new BullMQAdapter(queue)], serverAdapter })
  await app.register(serverAdapter.registerPlugin(), { prefix: path })
}
