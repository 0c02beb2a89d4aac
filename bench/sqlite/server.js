'use strict'

const Fastify = require('fastify')
const backgroundTasks = require('../../dist')
const { bullmq } = require('../../dist/lib/backends/bullmq')
const { sqlite } = require('../../dist/lib/backends/sqlite')
const { answer } = require('../child')

/* A server with one route that adds a stored task, and one without tasks. */

const task = backgroundTasks.defineTask('task', async () => {})

function backendOf (store) {
  if (store === null) return {}
  return { backend: /^(redis|postgres)/.test(store) ? bullmq({ connection: store, queue: `bench-${process.pid}` }) : sqlite({ file: store }) }
}

answer({
  /**
   * @param store null, a URL, or the path of a file
   * @param worker whether this process also runs the tasks
   * @returns its port
   */
  async listen ({ store, worker }) {
    const app = Fastify()
    await app.register(backgroundTasks, { tasks: [task], worker: worker && {}, ...backendOf(store) })
    app.post('/add', async request => {
      request.backgroundTasks.add(task, { order: '42', email: 'ada@example.com' })
      return { ok: true }
    })
    app.get('/idle', async () => ({ ok: true }))
    await app.listen({ host: '127.0.0.1', port: 0 })
    return app.server.address().port
  }
})
