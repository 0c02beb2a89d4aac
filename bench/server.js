'use strict'

const Fastify = require('fastify')
const { setTimeout: sleep } = require('node:timers/promises')
const { apps } = require('./apps')
const { answer } = require('./child')

/*
 * The server process: both sides of a row, each on a port of its own; or one of them. A slice is what happens between
 * `begin` and `end`; its CPU time is that of the whole process, its garbage collector included.
 */

const sides = {}
let slice

answer({
  /**
   * Makes a side of a row and returns its port.
   * @param build the folder of the plugin's build
   * @param asPlugin whether to make the application with the plugin
   */
  async listen ({ row, side, build, asPlugin }) {
    const { options, tasks, plugin, baseline } = apps[row]
    const app = Fastify(options)
    const counter = { ended: 0 }
    const setUp = asPlugin ? plugin : baseline
    await setUp(app, { backgroundTasks: require(build), build, counter })
    await app.listen({ host: '127.0.0.1', port: 0 })
    sides[side] = { tasks, counter }
    return app.server.address().port
  },

  begin ({ side }) {
    // Collect the garbage of the other side first. A full collection would also discard compiled code.
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
