'use strict'

const { randomUUID } = require('node:crypto')
const { availableParallelism } = require('node:os')
const { resolve } = require('node:path')
const { parseArgs } = require('node:util')
const { start } = require('../child')
const { measureRunning, printRunning } = require('../running')
const { summarize } = require('../statistics')

/*
 * Requests that answer once their task is stored: with this plugin, which writes the tasks of concurrent requests
 * together, beside a `queue.add` per request written by hand, for RabbitMQ a confirmed publish; then how fast stored tasks run, beside a worker of BullMQ alone. One process each, the same load from a third, in slices
 * that take turns; each slice of ours is compared with the one by hand next to it.
 */

const CONNECTIONS = 64
const WARM_UP = 500

const SERVERS = [
  { name: 'Redis', variable: 'REDIS_URL', budgets: { direct: 1.5, plain: 0.8 } },
  { name: 'Postgres', variable: 'DATABASE_URL', budgets: { direct: 6, plain: 3 } },
  { name: 'RabbitMQ', variable: 'RABBITMQ_URL', budgets: { celery: 1 } }
]

const USAGE = `REDIS_URL=redis://… DATABASE_URL=postgres://… RABBITMQ_URL=amqp://… npm run bench:durable -- [options]

Measures those of the three servers whose variable is set, with each writer. It makes two queues with names of their own there for each row,
and empties them; RabbitMQ removes them afterwards.

  --writer NAME only this writer, direct, plain or celery; and no running of stored tasks
  --json        one JSON object instead of the table
  --build DIR   the build of the plugin (default: dist)
  --rounds N    pairs of slices (default: 15)
  --slice MS    length of a slice (default: 500)
`

const { values: options } = parseArgs({
  options: {
    writer: { type: 'string' },
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '15' },
    slice: { type: 'string', default: '500' },
    build: { type: 'string', default: 'dist' },
    help: { type: 'boolean', default: false }
  }
})

async function main () {
  const servers = SERVERS.filter(({ variable }) => process.env[variable] !== undefined)
  if (options.help || servers.length === 0) {
    if (!options.help) process.exitCode = 1
    return console.log(USAGE)
  }
  const rows = []
  for (const { name, variable, budgets } of servers) {
    for (const [writer, budget] of Object.entries(budgets)) {
      if (options.writer === undefined || options.writer === writer) rows.push(await measure(name, process.env[variable], writer, budget))
    }
  }
  const running = []
  // Beside a worker of BullMQ alone.
  const measured = options.writer === undefined ? servers.filter(({ name }) => name !== 'RabbitMQ') : []
  for (const { name, variable } of measured) running.push({ name, ...await measureRunning(resolve(options.build), process.env[variable], Number(options.rounds)) })
  if (options.json) return console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), rows, running }, null, 2))
  print(rows)
  for (const { name, ...row } of running) printRunning(name, row)
}

async function measure (server, connection, writer, budget) {
  const build = resolve(options.build)
  const load = start('load.js')
  const sides = []
  for (const hand of [false, true]) {
    const process = start('durable/server.js')
    const port = await process.call('listen', { build, connection, hand, writer, queue: `bench-${randomUUID()}` })
    await load.call('open', { port, count: CONNECTIONS })
    sides.push({ process, port })
  }
  for (const side of sides) await slice(load, side, WARM_UP)
  const ours = []
  const byHand = []
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      (side === sides[0] ? ours : byHand).push(await slice(load, side, Number(options.slice)))
    }
  }
  for (const { process, port } of sides) {
    await load.call('close', { port })
    await process.call('close')
    await process.stop()
  }
  await load.stop()
  return {
    name: `${server}, ${writer}`,
    budget,
    ratio: summarize(ours.map(({ rate }, index) => rate / byHand[index].rate)),
    ours: summary(ours),
    byHand: summary(byHand)
  }
}

async function slice (load, { process, port }, milliseconds) {
  const before = await process.call('account')
  const { requests, seconds, p50, p99 } = await load.call('run', { port, method: 'POST', path: '/', milliseconds })
  const cpu = (await process.call('account') - before) / requests
  await process.call('clear')
  return { rate: requests / seconds, p50, p99, cpu }
}

function summary (slices) {
  return {
    rate: summarize(slices.map(({ rate }) => rate)),
    p50: summarize(slices.map(({ p50 }) => p50)),
    p99: summarize(slices.map(({ p99 }) => p99)),
    cpu: summarize(slices.map(({ cpu }) => cpu))
  }
}

function print (rows) {
  console.log(`Node ${process.version}, ${availableParallelism()} cores, ${CONNECTIONS} connections, one task a request. Medians, quartiles in brackets.\n`)
  for (const { name, budget, ratio, ours, byHand } of rows) {
    console.log(`${name}: ${ratio.median.toFixed(2)} [${ratio.q1.toFixed(2)}, ${ratio.q3.toFixed(2)}] times as many requests a second; at least ${budget} wanted`)
    for (const [what, { rate, p50, p99, cpu }] of [['this plugin', ours], ['by hand', byHand]]) {
      console.log(`  ${what.padEnd(12)} ${rate.median.toFixed(0).padStart(6)} requests/s   p50 ${p50.median.toFixed(1)} ms   p99 ${p99.median.toFixed(1)} ms   CPU ${cpu.median.toFixed(0)} µs a request`)
    }
  }
}

main()
