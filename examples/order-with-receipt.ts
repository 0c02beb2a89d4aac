import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { Pool } from 'pg'
import backgroundTasks, { defineTask } from '../index'
import { bullmq } from '../lib/backends/bullmq'
import { sqlite } from '../lib/backends/sqlite'

/*
 * An order and its receipt in one transaction: there is never one without the other.
 *
 *   DATABASE=postgres://127.0.0.1/app node order-with-receipt.js      in PostgreSQL
 *   DATABASE=./app.db node order-with-receipt.js                      in a file of SQLite
 */

interface Order {
  item: string
  amount: number
}

const sendReceipt = defineTask('send-receipt', async ({ item, amount }: Order, ctx) => {
  ctx.log.info(`the receipt for ${amount} × ${item} is sent`)
}, { attempts: 3, backoff: 1000 })

const schema = {
  body: { type: 'object', required: ['item', 'amount'], properties: { item: { type: 'string' }, amount: { type: 'integer' } } }
}

/** The database takes no order of nothing: then there is no receipt either. */
const ORDERS = 'CREATE TABLE IF NOT EXISTS orders (item TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount > 0))'

export async function buildOnPostgres (url: string, logger: FastifyServerOptions['logger'] = false): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, { tasks: [sendReceipt], backend: bullmq({ connection: url, queue: 'receipts' }) })
  const pool = new Pool({ connectionString: url })
  // Of connections that nobody uses just now.
  pool.on('error', error => { app.log.warn(error) })
  app.addHook('onReady', async () => { await pool.query(ORDERS) })
  app.addHook('onClose', () => pool.end())

  app.post<{ Body: Order }>('/orders', { schema }, async (request, reply) => {
    const { item, amount } = request.body
    const client = await pool.connect()
    try {
      await client.query('BEGIN')
      // The receipt first: it goes with the order all the same, if the database refuses the order.
      const task = await request.backgroundTasks.addInTransaction(client, sendReceipt, { item, amount })
      await client.query('INSERT INTO orders VALUES ($1, $2)', [item, amount])
      await client.query('COMMIT')
      reply.code(201)
      return { receipt: task.id }
    } catch (error) {
      await client.query('ROLLBACK')
      throw error
    } finally {
      client.release()
    }
  })
  return withReceipts(app)
}

export async function buildOnSqlite (file: string, logger: FastifyServerOptions['logger'] = false): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks, { tasks: [sendReceipt], backend: sqlite({ file }) })
  // Required here: Node 20 has none, nor do its types.
  const { DatabaseSync } = require('node:sqlite')
  let db: any
  // The plugin has made the file by then. The orders are in the same one as the tasks.
  app.addHook('onReady', async () => {
    db = new DatabaseSync(file)
    db.exec(`PRAGMA busy_timeout = 5000; ${ORDERS}`)
  })
  app.addHook('onClose', async () => { db.close() })

  app.post<{ Body: Order }>('/orders', { schema }, async (request, reply) => {
    const { item, amount } = request.body
    // No `await` before the COMMIT: other requests use the same connection.
    db.exec('BEGIN IMMEDIATE')
    let task
    try {
      task = request.backgroundTasks.addInTransaction(db, sendReceipt, { item, amount })
      db.prepare('INSERT INTO orders VALUES (?, ?)').run(item, amount)
      db.exec('COMMIT')
    } catch (error) {
      db.exec('ROLLBACK')
      throw error
    }
    reply.code(201)
    return { receipt: (await task).id }
  })
  return withReceipts(app)
}

function withReceipts (app: FastifyInstance): FastifyInstance {
  app.get<{ Params: { id: string } }>('/receipts/:id', async (request, reply) => {
    const task = await app.backgroundTasks.find(request.params.id)
    return task === null ? reply.callNotFound() : { state: task.state }
  })
  return app
}

async function main (): Promise<void> {
  const { DATABASE = './app.db' } = process.env
  const app = await (DATABASE.startsWith('postgres') ? buildOnPostgres : buildOnSqlite)(DATABASE, true)
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
