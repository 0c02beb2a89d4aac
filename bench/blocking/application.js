'use strict'

const Fastify = require('fastify')
const { join } = require('node:path')
const { answer } = require('../child')
const work = require('./work')

/* The server process: `/idle` is measured, `/work` adds a task, on the main thread or on threads. */

answer({
  async listen ({ build, threads, primes }) {
    const backgroundTasks = require(build)
    const onThread = backgroundTasks.defineTask('work', join(__dirname, 'work.js'))
    const app = Fastify()
    let done = 0
    await app.register(backgroundTasks, { tasks: [onThread], onError: error => { throw error } })
    app.get('/idle', async () => ({ idle: true }))
    app.post('/work', async request => {
      const handle = threads ? request.backgroundTasks.add(onThread, primes) : request.backgroundTasks.add(work, primes)
      handle.settled().then(state => { if (state === 'completed') done++ })
      return { accepted: true }
    })
    app.get('/done', async () => ({ done }))
    await app.listen({ host: '127.0.0.1', port: 0 })
    return app.server.address().port
  }
})
