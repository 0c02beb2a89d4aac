'use strict'

const Fastify = require('fastify')
const { setImmediate: turn } = require('node:timers/promises')

/**
 * Collectors of real requests without HTTP: each belongs to a hijacked request, which the caller ends. Uses the plugin's public
 * interface only.
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
