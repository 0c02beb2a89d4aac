'use strict'

const Fastify = require('fastify')
const { randomUUID } = require('node:crypto')
const { Client } = require('pg')
const { answer } = require('../child')

/* One endpoint that answers once a task is stored: with this plugin, or by hand, with a `queue.add`, or a confirmed publish, in the handler. */

const HOST = '127.0.0.1'

/** The payload of a task, on both sides. */
const PAYLOAD = { email: 'somebody@example.com', message: 'some notification' }

let app
let clear
let remove = async () => {}

async function withPlugin (build, connection, queue, writer) {
  const backgroundTasks = require(build)
  const notify = backgroundTasks.defineTask('notify', async () => {})
  await app.register(backgroundTasks, { tasks: [notify], backend: backendOf(build, connection, queue, writer), worker: false })
  app.post('/', async request => {
    request.backgroundTasks.add(notify, PAYLOAD)
    return { message: 'accepted' }
  })
}

function backendOf (build, connection, queue, writer) {
  if (isRabbit(connection)) return require(`${build}/lib/backends/celery`).celery({ broker: connection, queue })
  return require(`${build}/lib/backends/bullmq`).bullmq({ connection, queue, writer })
}

const isRabbit = connection => connection.startsWith('amqp')

/** A client that knows Celery's protocol would send as much. */
async function publishByHand (connection, queue) {
  const model = await require('amqplib').connect(connection, { noDelay: true })
  const channel = await model.createConfirmChannel()
  await channel.assertQueue(queue, { durable: true })
  app.addHook('onClose', () => model.close())
  app.post('/', async () => {
    const id = randomUUID()
    const body = Buffer.from(JSON.stringify([[], PAYLOAD, { callbacks: null, errbacks: null, chain: null, chord: null }]))
    const headers = { lang: 'js', task: 'notify', id, root_id: id, parent_id: null, group: null, eta: null, expires: null, retries: 0, timelimit: [null, null] }
    await new Promise((resolve, reject) => {
      channel.sendToQueue(queue, body, { persistent: true, contentType: 'application/json', contentEncoding: 'utf-8', correlationId: id, headers },
        error => error === null ? resolve() : reject(error))
    })
    return { message: 'accepted' }
  })
}

async function onChannel (connection, action) {
  const model = await require('amqplib').connect(connection)
  await action(await model.createChannel())
  await model.close()
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

/** Removes dead rows, which slow each write, before a slice: autovacuum would do so in the middle of one. */
async function vacuum (connectionString) {
  const client = new Client({ connectionString })
  await client.connect()
  await client.query('VACUUM ANALYZE')
  await client.end()
}

answer({
  async listen ({ build, connection, hand, queue, writer }) {
    app = Fastify()
    if (hand) await (isRabbit(connection) ? publishByHand : byHand)(connection, queue)
    else await withPlugin(build, connection, queue, writer)
    clear = isRabbit(connection)
      ? () => onChannel(connection, channel => channel.purgeQueue(queue))
      : async () => {
        const opened = await openQueue(connection, queue)
        await opened.drain(true)
        await opened.close()
        if (!connection.startsWith('redis')) await vacuum(connection)
      }
    if (isRabbit(connection)) remove = () => onChannel(connection, channel => channel.deleteQueue(queue))
    await app.listen({ host: HOST, port: 0 })
    return app.server.address().port
  },

  account () {
    const { user, system } = process.cpuUsage()
    return user + system
  },

  /** Empties the queue after a slice, so that both sides always write into an empty one. */
  async clear () {
    await clear()
  },

  async close () {
    await app.close()
    await remove()
  }
})
