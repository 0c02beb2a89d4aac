import fp from 'fastify-plugin'
import { appendFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import backgroundTasks, { defineTask } from '../../../index'

export const welcome = defineTask('welcome', async ({ email }: { email: string }) => {
  await sleep(Number(process.env.LATENCY ?? 0))
  await appendFile(process.env.LOG_FILE ?? 'log.txt', `welcome ${email}\n`)
}, { attempts: 3, backoff: { type: 'exponential', delay: 1000 } })

// A function around the plugin: @fastify/autoload hands its own options to all, and the plugin refuses what it does not know.
export default fp(async fastify => {
  await fastify.register(backgroundTasks, { tasks: [welcome], closeTimeout: 8_000 })
}, { name: 'background-tasks' })
