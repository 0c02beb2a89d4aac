'use strict'

const Fastify = require('fastify')
const { randomUUID } = require('node:crypto')
const { Client } = require('pg')
const { answer } = require('../child')

/* One endpoint that answers once a task is stored: with this plugin, or by hand, with a `queue.add` in the handler. */

const HOST = '127.0.0.1'

/** What both put into a task. */
const PAYLOAD = { email: 'somebody@example.com', message: 'some notification' }

let app
let clear

async function withPlugin (build, connection, queue) {
  const { bullmq } = require(`${build}/lib/backends/bullmq`)
  const backgroundTasks = require(build)
  const notify = backgroundTasks.defineTask('notify', async () => {})
  await app.register(backgroundTasks, { tasks: [notify], backend: bullmq({ connection, queue }), worker: false })
  app.post('/', async request => {
    request.backgroundTasks.add(notify, PAYLOAD)
    return { message: 'accepted' }
  })
}

async function byHand (connection, name) {
  const queue = await openQueue(connection, name)
  app.addHook('onClose', () => queue.close())
  app.post('/', async () => {
    await queue.add('notify', PAYLOAD, { jobId: randomUUID(), attempts: 1, removeOnComplete: true })
    return { message: 'accepted' }
  })
}

async function openQueue (connection, name) {
  const { createPostgresBackend, Queue, withBackend } = require('bullmq')
  const queue = connection.startsWith('redis')
    ? new Queue(name, { connection: { url: connection } })
    : new (withBackend(createPostgresBackend).Queue)(name, { connection: { connectionString: connection, migrate: true } })
  await queue.waitUntilReady()
  return queue
}

/** What autovacuum does from time to time, and would do in the middle of a slice: rows that are no more cost each write, too. */
async function vacuum (connectionString) {
  const client = new Client({ connectionString })
  await client.connect()
  await client.query('VACUUM ANALYZE')
  await client.end()
}

answer({
  async listen ({ build, connection, hand, queue }) {
    app = Fastify()
    if (hand) await byHand(connection, queue)
    else await withPlugin(build, connection, queue)
    clear = async () => {
      const opened = await openQueue(connection, queue)
      await opened.drain(true)
      await opened.close()
      if (!connection.startsWith('redis')) await vacuum(connection)
    }
    await app.listen({ host: HOST, port: 0 })
    return app.server.address().port
  },

  account () {
    const { user, system } = process.cpuUsage()
    return user + system
  },

  /** Takes what the slice has stored out of the queue, so that both sides always write into an empty one. */
  async clear () {
    await clear()
  },

  async close () {
    await app.close()
  }
})
