'use strict'

const { setImmediate: turn } = require('node:timers/promises')
const { answer } = require('./child')
const { collectorsOf } = require('./collectors')

/*
 * The runner's cost for a task, without HTTP: slices of 20 collectors, one after the other, with 1,000
 * no-op tasks each, which take turns with as many no-op tasks by hand; 50 slices are a million tasks on every side.
 */

const SLICES = 50
const WARM_UP = 5
const COLLECTORS = 20
const TASKS = 1_000

let ended = 0

async function noop () {
  ended++
}

/**
 * CPU time in microseconds of both steps for all collectors.
 * @param collect gets one of `subjects`
 * @param run gets the result of `collect`, and resolves when its last task has ended
 */
async function cpuOf (subjects, collect, run) {
  const cpu = { collect: 0, run: 0 }
  global.gc({ type: 'minor' })
  for (const subject of subjects) {
    ended = 0
    const begin = process.cpuUsage()
    const collected = collect(subject)
    const between = process.cpuUsage()
    run(collected)
    while (!isOver()) await turn()
    cpu.run += sum(process.cpuUsage(between))
    cpu.collect += sum(between) - sum(begin)
  }
  return cpu
}

function isOver () {
  return ended >= TASKS
}

function sum ({ user, system }) {
  return user + system
}

function add (collector) {
  for (let i = 0; i < TASKS; i++) collector.tasks.add(noop)
  return collector
}

function end (collector) {
  collector.end()
}

function collectByHand () {
  const list = []
  for (let i = 0; i < TASKS; i++) list.push({ fn: noop, args: [] })
  return list
}

async function runByHand (list) {
  for (const { fn, args } of list) await fn(...args)
}

function nothing () {}

async function bareLoop () {
  for (let i = 0; i < TASKS; i++) await noop()
}

answer({
  async measure ({ build }) {
    const make = await collectorsOf(build)
    const samples = { runner: [], 'runner-alone': [], 'runner-bare': [] }
    for (let i = -WARM_UP; i < SLICES; i++) {
      const collectors = await make(COLLECTORS)
      const sides = {
        plugin: [add, end],
        byHand: [collectByHand, runByHand],
        bare: [nothing, bareLoop]
      }
      const cpu = {}
      // Alternate the order: the garbage of one side must not always burden the same other side.
      const names = i % 2 === 0 ? ['plugin', 'byHand', 'bare'] : ['bare', 'byHand', 'plugin']
      for (const name of names) cpu[name] = await cpuOf(collectors, ...sides[name])
      if (i < 0) continue
      const { plugin, byHand, bare } = cpu
      samples.runner.push((plugin.collect + plugin.run) / (byHand.collect + byHand.run))
      samples['runner-alone'].push(plugin.run / byHand.run)
      samples['runner-bare'].push((plugin.collect + plugin.run) / bare.run)
    }
    return samples
  }
})
