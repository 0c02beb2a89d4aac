'use strict'

const { answer } = require('./child')
const { collectorsOf } = require('./collectors')
const { setImmediate: turn } = require('node:timers/promises')

/*
 * What the runner takes for a task, with no HTTP around it: slices of 20 collectors with 1,000 no-op tasks each, which
 * take turns with the same number of no-op tasks in bare loops; 50 slices are a million tasks on either side.
 */

const SLICES = 50
const WARM_UP = 5
const COLLECTORS = 20
const TASKS = 1_000

let ended = 0

async function noop () {
  ended++
}

/** CPU time of a span in microseconds, until its last task has ended. */
async function cpuOf (span) {
  global.gc({ type: 'minor' })
  ended = 0
  const begin = process.cpuUsage()
  span()
  while (ended < COLLECTORS * TASKS) await turn()
  const { user, system } = process.cpuUsage(begin)
  return user + system
}

async function bareLoop () {
  for (let i = 0; i < COLLECTORS * TASKS; i++) await noop()
}

function collectByHand () {
  const lists = []
  for (let i = 0; i < COLLECTORS; i++) {
    const list = []
    for (let j = 0; j < TASKS; j++) list.push({ fn: noop, args: [] })
    lists.push(list)
  }
  return lists
}

async function runByHand (lists) {
  for (const list of lists) {
    for (const { fn, args } of list) await fn(...args)
  }
}

function add (collectors) {
  for (const { tasks } of collectors) {
    for (let j = 0; j < TASKS; j++) tasks.add(noop)
  }
}

function run (collectors) {
  for (const { end } of collectors) end()
}

answer({
  async measure ({ build }) {
    const make = await collectorsOf(build)
    const samples = { runner: [], 'runner-add': [], 'runner-add-bare': [] }
    for (let i = -WARM_UP; i < SLICES; i++) {
      const added = await make(COLLECTORS)
      add(added)
      const empty = await make(COLLECTORS)
      const ofRun = await cpuOf(() => run(added))
      const ofBareLoop = await cpuOf(bareLoop)
      const ofAddAndRun = await cpuOf(() => { add(empty); run(empty) })
      const ofByHand = await cpuOf(() => runByHand(collectByHand()))
      if (i < 0) continue
      samples.runner.push(ofRun / ofBareLoop)
      samples['runner-add'].push(ofAddAndRun / ofByHand)
      samples['runner-add-bare'].push(ofAddAndRun / ofBareLoop)
    }
    return samples
  }
})
