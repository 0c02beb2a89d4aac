'use strict'

const Fastify = require('fastify')

/* The same three endpoints on this plugin. */

const [port, build] = process.argv.slice(2)
const backgroundTasks = require(build)

let ended = 0

async function notify (email, message) {
  ended++
}

function notifySync (email, message) {
  ended++
}

function adding (count, fn) {
  return async function (request) {
    for (let i = 0; i < count; i++) request.backgroundTasks.add(fn, request.params.email, 'some notification')
    return { message: 'Notification sent in the background' }
  }
}

async function main () {
  const app = Fastify()
  await app.register(backgroundTasks)
  app.post('/one-async/:email', adding(1, notify))
  app.post('/one-sync/:email', adding(1, notifySync))
  app.post('/ten-async/:email', adding(10, notify))
  app.get('/account', async () => {
    const { user, system } = process.cpuUsage()
    return { cpu: (user + system) / 1e6, ended }
  })
  await app.listen({ host: '127.0.0.1', port: Number(port) })
}

main()
