import autoload from '@fastify/autoload'
import type { FastifyInstance, FastifyPluginOptions } from 'fastify'
import { join } from 'node:path'

/*
 * As `fastify generate` lays it out. Started, once compiled, with
 *
 *   fastify start -l info -g 10000 app.js
 *
 * `-g` is how long fastify-cli waits at SIGTERM before it ends the process, half a second by default. It has to be
 * longer than the plugin's closeTimeout, or tasks are lost.
 */
export default async function app (fastify: FastifyInstance, options: FastifyPluginOptions): Promise<void> {
  await fastify.register(autoload, { dir: join(__dirname, 'plugins'), options })
  await fastify.register(autoload, { dir: join(__dirname, 'routes'), options })
}
