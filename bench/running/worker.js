'use strict'

const Fastify = require('fastify')
const { randomUUID } = require('node:crypto')
const { answer } = require('../child')

/* Runs stored no-op tasks: by the plugin, or by hand with the least code. */

const CONCURRENCY = 10
const PAYLOAD = JSON.stringify({ email: 'somebody@example.com', message: 'some notification' })
/** The retention of settled tasks, as in the plugin: age in seconds, and number. */
const KEPT = { age: 86_400, count: 10_000 }

/** Calls back with the milliseconds from the first task to the last, and the CPU time in µs. */
function counter (count) {
  let left = count
  let begin
  let cpu
  let resolve
  const end = new Promise(_resolve => { resolve = _resolve })
  const ran = () => {
    if (left-- === count) {
      begin = performance.now()
      cpu = process.cpuUsage()
    }
    if (left !== 0) return
    const { user, system } = process.cpuUsage(cpu)
    resolve({ ms: performance.now() - begin, cpu: user + system })
  }
  return { ran, end }
}

async function byPlugin (build, backend, ran) {
  const backgroundTasks = require(build)
  const task = backgroundTasks.defineTask('task', async () => ran())
  const app = Fastify()
  await app.register(backgroundTasks, { tasks: [task], backend: backend(), worker: { concurrency: CONCURRENCY } })
  await app.ready()
  return () => app.close()
}

/** Tasks on a server, by BullMQ. */
function bullmqStore (build, connection, name) {
  const { createPostgresBackend, Queue, Worker, withBackend } = require('bullmq')
  const isRedis = connection.startsWith('redis')
  const postgres = isRedis ? null : withBackend(createPostgresBackend)
  const open = isRedis
    ? () => new Queue(name, { connection: { url: connection } })
    : () => new postgres.Queue(name, { connection: { connectionString: connection, migrate: true } })
  return {
    async fill (count) {
      const queue = open()
      await queue.waitUntilReady()
      for (let left = count; left > 0; left -= 1_000) {
        await queue.addBulk(Array.from({ length: Math.min(left, 1_000) }, () => ({ name: 'task', data: { payload: PAYLOAD }, opts: { jobId: randomUUID(), attempts: 1 } })))
      }
      await queue.close()
    },
    backend: () => require(`${build}/lib/backends/bullmq`).bullmq({ connection, queue: name }),
    async byHand (ran) {
      const process = async () => ran()
      const worker = isRedis
        ? new Worker(name, process, { connection: { url: connection, maxRetriesPerRequest: null }, concurrency: CONCURRENCY, removeOnComplete: KEPT })
        : new postgres.Worker(name, process, { connection: { connectionString: connection }, concurrency: CONCURRENCY })
      await worker.waitUntilReady()
      return () => worker.close()
    },
    async clear () {
      const queue = open()
      await queue.obliterate({ force: true })
      await queue.close()
    }
  }
}

/** Tasks in a file. By hand: ten are claimed and run, then settled together with the claim of the next ten. */
function sqliteStore (build, file) {
  const { sqlite } = require(`${build}/lib/backends/sqlite`)
  const openFile = () => new (require('node:sqlite').DatabaseSync)(file)
  return {
    async fill (count) {
      // Makes the table.
      const app = Fastify()
      await app.register(require(build), { backend: sqlite({ file }), worker: false })
      await app.ready()
      await app.close()
      const database = openFile()
      const insert = database.prepare("INSERT INTO tasks (id, task, state, due) VALUES (?, ?, 'pending', ?)")
      database.exec('BEGIN')
      for (let n = 0; n < count; n++) {
        const id = randomUUID()
        insert.run(id, JSON.stringify({ id, name: 'task', label: 'task', payload: PAYLOAD, requestId: null, attempts: 1, backoff: null, delay: 0, timeout: 0, dedupe: null, carrier: null }), n - 1e15)
      }
      database.exec('COMMIT')
      database.close()
    },
    backend: () => sqlite({ file }),
    async byHand (ran) {
      const database = openFile()
      database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
      const [begin, commit] = ['BEGIN IMMEDIATE', 'COMMIT'].map(sql => database.prepare(sql))
      const claim = database.prepare(`UPDATE tasks SET state = 'running', owner = 'hand', lease_until = ?, deliveries = deliveries + 1
        WHERE rowid IN (SELECT rowid FROM tasks WHERE state = 'pending' AND due <= ? ORDER BY due LIMIT ${CONCURRENCY}) RETURNING id, task`)
      const settle = database.prepare("UPDATE tasks SET state = 'completed', attempts = 1, settled_at = ?, owner = NULL, lease_until = NULL WHERE id = ?")
      const handler = async () => ran()
      const loop = async () => {
        let tasks = []
        do {
          const now = Date.now()
          begin.run()
          for (const { id } of tasks) settle.run(now, id)
          tasks = claim.all(now + 30_000, now)
          commit.run()
          await Promise.all(tasks.map(({ task }) => handler(JSON.parse(JSON.parse(task).payload))))
          await new Promise(resolve => { setImmediate(resolve) })
        } while (tasks.length !== 0)
        database.close()
      }
      const ended = loop()
      return () => ended
    },
    async clear () {
      const database = openFile()
      database.exec('DELETE FROM tasks')
      database.close()
    }
  }
}

answer({
  async run ({ build, store, name, hand, count }) {
    const kept = /^(redis|postgres)/.test(store) ? bullmqStore(build, store, name) : sqliteStore(build, store)
    await kept.fill(count)
    const { ran, end } = counter(count)
    const stop = await (hand ? kept.byHand(ran) : byPlugin(build, kept.backend, ran))
    const { ms, cpu } = await end
    await stop()
    await kept.clear()
    return { rate: count / ms * 1_000, cpu: cpu / count }
  }
})
