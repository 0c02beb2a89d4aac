import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks, { type SettleMessage } from '../index'

/** Writes a line in the log for each task that has ended, also for one that has completed. */
function logEachTask (app: FastifyInstance): void {
  const log = (message: unknown) => {
    const { app: door, id, name, state, requestId } = message as SettleMessage
    // Channels belong to the process, which may have other applications.
    if (door === app.backgroundTasks) app.log.info({ reqId: requestId, task: { id, name } }, `background task ${state}`)
  }
  subscribe('fastify-background-tasks.settle', log)
  app.addHook('onClose', async () => { unsubscribe('fastify-background-tasks.settle', log) })
}

export async function build (logger: FastifyServerOptions['logger'] = false): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks)
  logEachTask(app)

  app.post('/orders', async request => {
    request.backgroundTasks.add(async function sendReceipt () { await sleep(20) })
    request.backgroundTasks.add({ runOn: 'failure' }, function alert () {})
    return { accepted: true }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build(true)
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
