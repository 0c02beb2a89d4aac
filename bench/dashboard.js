'use strict'

const { setTimeout: sleep, setImmediate: turn } = require('node:timers/promises')
const { once } = require('node:events')
const { get } = require('node:http')
const { join } = require('node:path')
const Fastify = require('fastify')
const { summarize } = require('./statistics')

/*
 * The cost of the dashboard for a process that runs 10,000 tasks a second: CPU time for each slice of the same work, in an
 * application without it, in one with it, and in one with an open page. The three take turns in one process. The
 * work of a request is added to each task, 50 µs of it, as the plugin's own benchmarks measure for one; with `--bare`
 * there is none, and the share is of the runner alone.
 */

const build = join(__dirname, '..', 'dist')
const TASKS = 10_000
const PER_TURN = 100
const ROUNDS = Number(process.env.ROUNDS ?? 21)
const WORK = process.argv.includes('--bare') ? 0 : 0.05

function work () {
  if (WORK === 0) return
  const end = performance.now() + WORK
  while (performance.now() < end);
}

async function create (withDashboard) {
  const app = Fastify({ forceCloseConnections: true })
  await app.register(require(build))
  if (withDashboard) await app.register(require(join(build, 'lib/dashboard')).dashboard, { prefix: '/tasks' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  return app
}

/** The CPU time, in microseconds, of one second's tasks. */
async function slice (app) {
  const begin = Date.now()
  const cpu = process.cpuUsage()
  for (let i = 0; i < TASKS / PER_TURN; i++) {
    for (let j = 0; j < PER_TURN; j++) {
      app.backgroundTasks.add(async function task () { await undefined })
      work()
    }
    await sleep(Math.max(0, begin + i * 1_000 * PER_TURN / TASKS - Date.now()))
  }
  while (app.backgroundTasks.stats().completed % TASKS !== 0) await turn()
  const { user, system } = process.cpuUsage(cpu)
  return user + system
}

/** Opens the dashboard's stream, as a page does. */
async function look (app) {
  // Wait half an interval of the stream: one update then falls into the middle of the slice.
  const viewer = get(`http://127.0.0.1:${app.server.address().port}/tasks/events`, { headers: { 'x-background-tasks-dashboard': '1' } })
  viewer.on('error', () => {})
  const [response] = await once(viewer, 'response')
  response.on('error', () => {}).resume()
  await sleep(500)
  return viewer
}

async function main () {
  const apps = { without: await create(false), registered: await create(true), watched: await create(true) }
  const ratios = { registered: [], watched: [] }
  const names = Object.keys(apps)
  for (let round = -2; round < ROUNDS; round++) {
    const cpu = {}
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round + 2) % names.length]
      global.gc({ type: 'minor' })
      // Only during its application's turn, so that its cost does not count for the others.
      const viewer = name === 'watched' ? await look(apps[name]) : null
      cpu[name] = await slice(apps[name])
      viewer?.destroy()
    }
    if (round < 0) continue
    for (const name of ['registered', 'watched']) ratios[name].push(cpu[name] / cpu.without)
  }
  for (const app of Object.values(apps)) await app.close()
  console.log(`${TASKS} tasks a second${WORK === 0 ? '' : `, with ${WORK * 1_000} µs of work around each`}: CPU time against the same without the dashboard, ${ROUNDS} rounds; Node ${process.version}`)
  console.table(Object.fromEntries(Object.entries(ratios).map(([name, samples]) => {
    const { median, q1, q3 } = summarize(samples)
    return [name, { median: median.toFixed(3), q1: q1.toFixed(3), q3: q3.toFixed(3) }]
  })))
}

main()
