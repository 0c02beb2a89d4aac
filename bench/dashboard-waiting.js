'use strict'

const { once } = require('node:events')
const { mkdtemp, rm } = require('node:fs/promises')
const { get } = require('node:http')
const { tmpdir } = require('node:os')
const { join } = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')
const Fastify = require('fastify')
const { quantile } = require('./statistics')

/*
 * The longest turn of the event loop in each second, with 100,000 waiting tasks: while nobody looks, while the first screen
 * is open, and while the last page of a list is open, which is read every two seconds. Measured in the thread's CPU time (Node
 * 23.9 or later), which other programs do not lengthen; Linux counts it in steps of up to 4 ms.
 */

const build = join(__dirname, '..', 'dist')
const TASKS = 100_000
const PER_REQUEST = 1_000
const SECONDS = Number(process.env.SECONDS ?? 16)
const HEADERS = { 'x-background-tasks-dashboard': '1' }
const plugin = require(build)

async function create (backend) {
  const task = plugin.defineTask('task', async () => {})
  const app = Fastify({ forceCloseConnections: true })
  await app.register(plugin, { concurrency: 1, maxPending: 2 * TASKS, closeTimeout: 0, onError: () => {}, ...(backend !== null && { tasks: [task], backend, worker: false }) })
  await app.register(require(join(build, 'lib/dashboard')).dashboard, { prefix: '/tasks' })
  app.post('/', async request => {
    for (let i = 0; i < PER_REQUEST; i++) request.backgroundTasks.add({ name: `task ${i % 40}` }, task)
    return 'x'
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  if (backend === null) app.backgroundTasks.add(() => new Promise(() => {}))
  for (let i = 0; i < TASKS / PER_REQUEST; i++) await app.inject({ method: 'POST', url: '/' })
  return app
}

function cpuMs () {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1_000
}

/** The longest turn of each second, in ms. */
async function turns () {
  const longest = []
  for (let i = 0; i < SECONDS; i++) {
    const end = performance.now() + 1_000
    let last = cpuMs()
    let max = 0
    while (performance.now() < end) {
      await new Promise(resolve => { setImmediate(resolve) })
      const now = cpuMs()
      max = Math.max(max, now - last)
      last = now
    }
    longest.push(max)
  }
  return longest
}

async function read (url) {
  const request = get(url, { headers: HEADERS })
  request.on('error', () => {})
  const [response] = await once(request, 'response')
  response.on('error', () => {}).resume()
  return { request, response }
}

async function measure (name, backend, rows) {
  const app = await create(backend)
  const at = `http://127.0.0.1:${app.server.address().port}/tasks`
  const note = (what, longest) => { rows.push({ tasks: name, page: what, median: quantile(longest, 0.5).toFixed(1), q3: quantile(longest, 0.75).toFixed(1), worst: Math.max(...longest).toFixed(1) }) }
  await sleep(1_000)
  note('none', await turns())
  const { request } = await read(`${at}/events`)
  note('first screen', await turns())
  for (const order of ['oldest', 'newest']) {
    const timer = setInterval(() => read(`${at}/lists/waiting?order=${order}&offset=${TASKS - 50}`), 2_000)
    note(`last page, ${order} first`, await turns())
    clearInterval(timer)
  }
  request.destroy()
  await app.close()
}

async function main () {
  if (process.threadCpuUsage === undefined) throw new Error(`The figures need process.threadCpuUsage: Node 23.9 or later. This is ${process.version}.`)
  process.removeAllListeners('warning')
  process.on('warning', () => {})
  const folder = await mkdtemp(join(tmpdir(), 'background-tasks-'))
  const rows = []
  await measure('in the process', null, rows)
  await measure('SQLite', require(join(build, 'lib/backends/sqlite')).sqlite({ file: join(folder, 'tasks.db') }), rows)
  await rm(folder, { recursive: true })
  console.log(`${TASKS} waiting tasks: the longest turn of the event loop in each of ${SECONDS} seconds, in ms of CPU time; Node ${process.version}`)
  console.table(rows)
  process.exit()
}

main()
