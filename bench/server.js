'use strict'

const Fastify = require('fastify')
const { setTimeout: sleep } = require('node:timers/promises')
const { apps } = require('./apps')
const { answer } = require('./child')

/*
 * The server process: both sides of a row, each on a port of its own. A slice is what happens between `begin` and
 * `end`; its CPU time is that of the whole process, its garbage collector included.
 */

const sides = {}
let slice

answer({
  /**
   * @param build where the plugin is
   * @param against where another build of the plugin is, to be the baseline instead
   * @param order which side is made and warmed first
   */
  async listen ({ row, build, against, order }) {
    for (const side of order) {
      const { options, tasks, plugin, baseline } = apps[row]
      const app = Fastify(options)
      const counter = { ended: 0 }
      const setUp = side === 'plugin' || against !== undefined ? plugin : baseline
      await setUp(app, { backgroundTasks: require(side === 'plugin' || against === undefined ? build : against), counter })
      await app.listen({ host: '127.0.0.1', port: 0 })
      sides[side] = { tasks, counter, port: app.server.address().port }
    }
    return { plugin: sides.plugin.port, baseline: sides.baseline.port }
  },

  begin ({ side }) {
    // One side must not pay for what the other has left behind. A full collection would also throw away compiled code.
    global.gc({ type: 'minor' })
    slice = { side: sides[side], ended: sides[side].counter.ended, cpu: process.cpuUsage() }
  },

  /** Returns the microseconds of CPU time per request, once the tasks of all requests have run. */
  async end ({ requests }) {
    const { side, ended, cpu } = slice
    for (let i = 0; side.counter.ended - ended < requests * side.tasks; i++) {
      if (i === 1000) throw new Error(`${side.counter.ended - ended} tasks of ${requests * side.tasks} have run`)
      await sleep(1)
    }
    const { user, system } = process.cpuUsage(cpu)
    return (user + system) / requests
  }
})
