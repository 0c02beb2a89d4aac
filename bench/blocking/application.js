'use strict'

const Fastify = require('fastify')
const { join } = require('node:path')
const { Worker } = require('node:worker_threads')
const { answer } = require('../child')
const work = require('./work')

/*
 * The server process: `/idle` is measured, `/start` keeps tasks waiting until `/stop`, on the main thread or on threads.
 * `bare` is a thread that computes without tasks or messages: its cost is the least of any pool.
 */

let runTask

answer({
  async listen ({ build, where, primes }) {
    const backgroundTasks = require(build)
    const onThread = backgroundTasks.defineTask('work', join(__dirname, 'work.js'))
    const app = Fastify()
    let started = false
    let bare = null
    let done = 0
    await app.register(backgroundTasks, { tasks: [onThread], onError: error => { throw error } })
    app.get('/idle', async () => ({ idle: true }))
    app.post('/start', async () => {
      started = true
      if (where === 'bare') bare ??= new Worker(join(__dirname, 'bare.js'), { workerData: primes })
      else add()
      return {}
    })
    app.post('/stop', async () => {
      started = false
      await bare?.terminate()
      bare = null
      return {}
    })
    app.get('/done', async () => ({ done }))
    runTask = n => (where === 'threads' ? app.backgroundTasks.add(onThread, n) : app.backgroundTasks.add(work, n)).settled()
    await app.listen({ host: '127.0.0.1', port: 0 })
    return app.server.address().port

    /** Adds a task, and the next one when it has ended. */
    function add () {
      runTask(primes).then(state => {
        if (state === 'completed') done++
        if (started) add()
      })
    }
  },

  /** Runs a number of tasks that end at once. */
  async warmUp ({ count }) {
    for (let i = 0; i < count; i++) await runTask(1)
  }
})
