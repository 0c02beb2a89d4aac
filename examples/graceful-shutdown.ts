import closeWithGrace from 'close-with-grace'
import Fastify, { type FastifyInstance } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks from '../index'

export async function build (): Promise<FastifyInstance> {
  const app = Fastify({
    logger: true,
    // A connection that a client keeps open would keep the server from closing.
    forceCloseConnections: 'idle'
  })
  await app.register(backgroundTasks, { closeTimeout: 2_000 })

  app.post<{ Params: { times: string, ms: string } }>('/tasks/:times/:ms', async request => {
    const { times, ms } = request.params
    for (let i = 0; i < Number(times); i++) request.backgroundTasks.add({ name: 'work' }, sleep, Number(ms))
    return { accepted: true }
  })

  app.post<{ Params: { ms: string } }>('/retry/:ms', async request => {
    let attempts = 0
    request.backgroundTasks.add({ name: 'flaky', attempts: 2, backoff: Number(request.params.ms) }, () => {
      if (++attempts === 1) throw new Error('the first attempt fails')
    })
    return { accepted: true }
  })

  app.post<{ Params: { ms: string } }>('/slow-answer/:ms', async request => {
    await sleep(Number(request.params.ms))
    request.backgroundTasks.add(function afterwards () {})
    return { accepted: true }
  })

  app.get('/stats', async () => app.backgroundTasks.stats())

  return app
}

async function main () {
  const app = await build()
  // Longer than the plugin's closeTimeout: the tasks' end is reported before the process is made to leave.
  closeWithGrace({ delay: 10_000 }, async ({ signal, err }) => {
    if (err) app.log.error({ err }, 'server closing because of an error')
    else app.log.info(`${signal} received, server closing`)
    await app.close()
  })
  await app.listen({ port: Number(process.env.PORT ?? 3000), host: '127.0.0.1' })
}

if (require.main === module) main()
