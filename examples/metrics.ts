import Fastify, { type FastifyInstance } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import { Counter, Gauge, Registry } from 'prom-client'
import backgroundTasks, { type Stats } from '../index'

/** What `stats()` counts as it stands now; all else only grows. */
const NOW = ['collecting', 'pending', 'running'] as const
const FINAL = ['completed', 'failed', 'dropped', 'cancelled', 'replaced', 'captured', 'stored'] as const

/** Metrics of an application's tasks. Nothing is counted twice: each scrape reads `stats()`. */
export function taskMetrics (app: FastifyInstance): Registry {
  const registry = new Registry()
  // Not in prom-client's own, global registry: an application may be built more than once in a process.
  const registers: Registry[] = []
  const total = (name: string, help: string, read: (stats: Stats) => number) => new Counter({
    name,
    help,
    registers,
    collect () {
      this.reset()
      this.inc(read(app.backgroundTasks.stats()))
    }
  })

  registry.registerMetric(total('background_tasks_accepted_total', 'Tasks that add has taken, and deliveries of a backend', stats => stats.accepted))
  registry.registerMetric(total('background_tasks_retried_total', 'Attempts that failed and are followed by another one', stats => stats.retried))
  registry.registerMetric(new Counter({
    name: 'background_tasks_settled_total',
    help: 'Tasks that have ended, by their final state',
    labelNames: ['state'],
    registers,
    collect () {
      const stats = app.backgroundTasks.stats()
      this.reset()
      for (const state of FINAL) this.inc({ state }, stats[state])
    }
  }))
  registry.registerMetric(new Gauge({
    name: 'background_tasks',
    help: 'Tasks that have not ended, by their state',
    labelNames: ['state'],
    registers,
    collect () {
      const stats = app.backgroundTasks.stats()
      for (const state of NOW) this.set({ state }, stats[state])
    }
  }))
  registry.registerMetric(new Gauge({
    name: 'background_tasks_abandoned',
    help: 'Functions that still run although their task has been given up',
    registers,
    collect () {
      this.set(app.backgroundTasks.stats().abandoned)
    }
  }))
  return registry
}

export async function build ({ logger = false } = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks)
  const registry = taskMetrics(app)

  app.get('/metrics', async (_request, reply) => {
    reply.type(registry.contentType)
    return registry.metrics()
  })

  app.post<{ Params: { ms: string } }>('/tasks/:ms', async request => {
    request.backgroundTasks.add({ name: 'work' }, sleep, Number(request.params.ms))
    return { accepted: true }
  })

  app.post('/fail', async request => {
    request.backgroundTasks.add({ name: 'fail', attempts: 2 }, () => { throw new Error('it fails') })
    return { accepted: true }
  })

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
