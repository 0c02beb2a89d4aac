'use strict'

const { randomUUID } = require('node:crypto')
const { start } = require('../child')
const { summarize } = require('../statistics')

/*
 * The rate of stored no-op tasks, ten at a time: by this plugin, and by hand. Each side has a process; their slices take
 * turns, and each of ours is compared with the one by hand next to it. A slice begins with a full queue and a new worker.
 */

const COUNT = 6_000
/** Slices for warm-up: a new process runs half as fast. */
const WARM_UP = 4
const BUDGET = 0.9

/** @param store the URL of a server, or the path of a file to be made */
async function measureRunning (build, store, rounds) {
  const sides = [false, true].map(hand => ({ hand, process: start('running/worker.js'), slices: [] }))
  const run = ({ hand, process }) => process.call('run', { build, store, hand, name: `bench-${randomUUID()}`, count: COUNT })
  for (let round = 0; round < WARM_UP; round++) for (const side of sides) await run(side)
  for (let round = 0; round < rounds; round++) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) side.slices.push(await run(side))
  }
  for (const { process } of sides) await process.stop()
  const [ours, byHand] = sides.map(({ slices }) => slices)
  const summary = slices => ({ rate: summarize(slices.map(({ rate }) => rate)), cpu: summarize(slices.map(({ cpu }) => cpu)) })
  return { budget: BUDGET, ratio: summarize(ours.map(({ rate }, index) => rate / byHand[index].rate)), ours: summary(ours), byHand: summary(byHand) }
}

function printRunning (name, { budget, ratio, ours, byHand }) {
  console.log(`${name}: ${COUNT} stored tasks run at ${ratio.median.toFixed(2)} [${ratio.q1.toFixed(2)}, ${ratio.q3.toFixed(2)}] of the rate by hand; at least ${budget} wanted`)
  for (const [what, { rate, cpu }] of [['this plugin', ours], ['by hand', byHand]]) {
    console.log(`  ${what.padEnd(18)} ${rate.median.toFixed(0).padStart(6)} tasks/s   CPU ${cpu.median.toFixed(0)} µs a task`)
  }
}

module.exports = { measureRunning, printRunning }
