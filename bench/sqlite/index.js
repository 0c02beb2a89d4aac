'use strict'

const { mkdtempSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join, resolve } = require('node:path')
const { parseArgs } = require('node:util')
const { start } = require('../child')
const { measureRunning, printRunning } = require('../running')
const { quantile } = require('../statistics')

/*
 * The cost of storing tasks for a server: the rate of requests that add one, 64 at a time, and the latency of a route without tasks
 * meanwhile. `node:sqlite` holds the thread while it writes: the p99 of that route
 * shows for how long. REDIS_URL and DATABASE_URL add rows. At last, how fast tasks of a file run, beside a loop written by hand.
 */

const CONNECTIONS = 64
const WARM_UP = 1_000
const RUNNING_ROUNDS = 15

const { values } = parseArgs({
  options: {
    folder: { type: 'string', default: tmpdir() },
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' }
  }
})

function rows (folder) {
  const all = [
    { name: 'nothing is added', store: null, quiet: true },
    { name: 'in the process, kept nowhere', store: null },
    { name: 'SQLite', store: join(folder, 'web.db') },
    { name: 'SQLite, and runs them', store: join(folder, 'both.db'), worker: true }
  ]
  for (const [name, url] of [['Redis', process.env.REDIS_URL], ['Postgres', process.env.DATABASE_URL]]) {
    if (url !== undefined) all.push({ name, store: url }, { name: `${name}, and runs them`, store: url, worker: true })
  }
  return all
}

async function measure ({ store, worker = false, quiet = false }) {
  const server = start('sqlite/server.js')
  const loads = [start('load.js'), start('load.js')]
  const port = await server.call('listen', { store, worker })
  const [adding, idle] = loads
  await adding.call('open', { port, count: CONNECTIONS })
  await idle.call('open', { port, count: 1 })
  const run = async milliseconds => Promise.all([
    quiet ? { requests: 0 } : adding.call('run', { port, method: 'POST', path: '/add', milliseconds }),
    idle.call('run', { port, method: 'GET', path: '/idle', milliseconds })
  ])
  await run(WARM_UP)
  const [add, other] = await run(Number(values.seconds) * 1_000)
  for (const process of [...loads, server]) await process.stop()
  return { rate: add.requests / Number(values.seconds), p99: add.p99, idleP50: other.p50, idleP99: other.p99 }
}

async function main () {
  const folder = mkdtempSync(join(values.folder, 'bench-sqlite-'))
  const results = new Map()
  let running
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const row of rows(folder)) {
        results.set(row.name, [...results.get(row.name) ?? [], await measure(row)])
      }
    }
    running = await measureRunning(resolve('dist'), join(folder, 'running.db'), RUNNING_ROUNDS)
  } finally {
    rmSync(folder, { recursive: true })
  }
  console.log(`${CONNECTIONS} requests at a time add a task each; medians of ${values.rounds} rounds of ${values.seconds} s; Node ${process.version}`)
  console.table([...results].map(([name, samples]) => {
    const median = (field, digits) => samples[0][field] === undefined ? '' : quantile(samples.map(sample => sample[field]), 0.5).toFixed(digits)
    return { tasks: name, 'added/s': median('rate', 0), 'p99 of adding, ms': median('p99', 1), 'p50 of another route, ms': median('idleP50', 2), 'p99 of it, ms': median('idleP99', 2) }
  }))
  printRunning('SQLite', running)
}

main()
