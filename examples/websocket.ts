import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  /** Milliseconds that the work on one message takes. */
  latency?: number
  /** How many messages may be unfinished in the whole application. */
  maxPending?: number
}

/** Takes messages from a socket and works on those of each socket one at a time, in the order they came. */
export async function build ({ logger = false, latency = 500, maxPending = 10_000 }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(websocket)
  await app.register(backgroundTasks, { maxPending })

  app.get('/shout', { websocket: true }, (socket, request) => {
    // The request ends with its socket, which may be in hours: tasks start now, and later ones at once.
    request.backgroundTasks.release()

    socket.on('message', (message: Buffer) => {
      const text = String(message)
      try {
        request.backgroundTasks.add(shout, text)
        socket.send(`accepted: ${text}`)
      } catch (error) {
        // Too many are waiting, or the application closes. Nobody else would catch it here.
        request.log.warn({ err: error }, 'message refused')
        socket.send(`refused: ${text}`)
      }
    })

    async function shout (text: string): Promise<void> {
      await sleep(latency)
      // A socket that has been closed meanwhile takes it, and does nothing.
      socket.send(text.toUpperCase())
    }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
