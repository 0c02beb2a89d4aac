'use strict'

const Fastify = require('fastify')
const { setImmediate: turn } = require('node:timers/promises')

/**
 * Collectors of real requests with no HTTP around them: each belongs to a hijacked request, whose end comes when the
 * caller says so. Uses nothing but the plugin's public interface.
 */
async function collectorsOf (build) {
  let made = []
  const app = Fastify()
  await app.register(require(build), { maxPending: Infinity })
  app.get('/', (request, reply) => {
    reply.hijack()
    made.push({ tasks: request.backgroundTasks, end: () => reply.raw.emit('close') })
  })
  await app.ready()

  return async function make (count) {
    made = []
    for (let i = 0; i < count; i++) app.inject('/', () => {})
    while (made.length < count) await turn()
    return made
  }
}

module.exports = { collectorsOf }
