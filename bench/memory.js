'use strict'

const { answer } = require('./child')
const { collectorsOf } = require('./collectors')

/*
 * The heap that pending tasks take: collectors that wait for the end of their request get many tasks each, so that
 * what a collector takes itself does not count. The tasks have no arguments, as the list of arguments is the caller's.
 */

const COLLECTORS = 100
const TASKS = 1_000
const SAMPLES = 5

async function noop () {}

function heap () {
  global.gc()
  return process.memoryUsage().heapUsed
}

answer({
  async measure ({ build }) {
    const make = await collectorsOf(build)
    const samples = []
    for (let i = 0; i <= SAMPLES; i++) {
      const collectors = await make(COLLECTORS)
      // Objects made once per collector or process do not count for a task.
      for (const { tasks } of collectors) tasks.add(noop)
      const before = heap()
      for (const { tasks } of collectors) {
        for (let j = 0; j < TASKS; j++) tasks.add(noop)
      }
      // The first round also fills caches.
      if (i !== 0) samples.push((heap() - before) / COLLECTORS / TASKS)
    }
    return { memory: samples }
  }
})
