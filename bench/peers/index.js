'use strict'

const { execFileSync, spawn, spawnSync } = require('node:child_process')
const { once } = require('node:events')
const { createServer } = require('node:net')
const { availableParallelism } = require('node:os')
const { join, resolve } = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')
const { parseArgs } = require('node:util')
const { start } = require('../child')
const { summarize } = require('../statistics')

/*
 * The same endpoints on this plugin and on FastAPI with uvicorn: one process each, the same load from a third, in
 * slices that take turns. Then storing tasks, on the servers that are named, beside a `queue.add` by hand.
 */

const CONNECTIONS = 32
const WARM_UP = 1_000
const HOST = '127.0.0.1'

const ROUTES = [
  { path: '/one-async', what: 'one async task', tasks: 1 },
  { path: '/one-sync', what: 'one sync task', tasks: 1 },
  { path: '/ten-async', what: 'ten async tasks', tasks: 10 }
]

const HOW_TO_GET_THEM = `FastAPI and uvicorn are not installed. On Debian and Ubuntu:

  apt-get install python3-fastapi uvicorn python3-uvloop python3-httptools

or, with pip: pip install fastapi uvicorn uvloop httptools
The last two are what uvicorn is fastest with; it also works without them.`

const PROBE = `
import importlib.util, json, fastapi, uvicorn
print(json.dumps({
    "fastapi": fastapi.__version__,
    "uvicorn": uvicorn.__version__,
    "loop": "uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
    "http": "httptools" if importlib.util.find_spec("httptools") else "h11"
}))`

const USAGE = `npm run bench:peers -- [options]

REDIS_URL and DATABASE_URL add what bench:durable measures.

  --json        one JSON object instead of the table
  --plain       uvicorn without uvloop and httptools, also where they are installed
  --build DIR   the build of the plugin (default: dist)
  --rounds N    slices of each endpoint on each server (default: 6)
  --slice MS    length of a slice (default: 1000)
`

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '6' },
    slice: { type: 'string', default: '1000' },
    build: { type: 'string', default: 'dist' },
    plain: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})

async function main () {
  if (options.help) return console.log(USAGE)
  const python = findPython()
  const results = python === null ? {} : await besideFastapi(python)
  const stores = 'REDIS_URL' in process.env || 'DATABASE_URL' in process.env
  if (options.json) {
    if (stores) results.storing = JSON.parse(storing(['--json'], 'pipe'))
    return console.log(JSON.stringify(results, null, 2))
  }
  if (python === null) console.log(HOW_TO_GET_THEM)
  else print(results.machine, results.rows)
  if (!stores) return console.log('\nStoring tasks: REDIS_URL and DATABASE_URL say where.')
  console.log()
  storing([], 'inherit')
}

async function besideFastapi (python) {
  if (options.plain) Object.assign(python, { loop: 'asyncio', http: 'h11' })
  const version = spawnSync(python.command, ['--version'], { encoding: 'utf8' }).stdout.trim()
  const peer = `FastAPI ${python.fastapi}, uvicorn ${python.uvicorn} with ${python.loop} and ${python.http}, ${version}`
  const servers = []
  try {
    servers.push(await serve('fastify-background-tasks', port => [process.execPath, [join(__dirname, 'application.js'), port, resolve(options.build)]]))
    servers.push(await serve('FastAPI', port => [python.command, [
      '-m', 'uvicorn', 'application:app', '--app-dir', __dirname, '--host', HOST, '--port', port, '--loop', python.loop,
      '--http', python.http, '--no-access-log', '--log-level', 'warning'
    ]]))
    const rows = await measure(servers)
    return { machine: { node: process.version, cores: availableParallelism(), peer }, rows }
  } finally {
    for (const { child } of servers) child.kill()
  }
}

function storing (args, stdout) {
  const file = join(__dirname, '../durable/index.js')
  return execFileSync(process.execPath, [file, '--build', options.build, ...args], { encoding: 'utf8', stdio: ['ignore', stdout, 'inherit'] })
}

/** Debian's packages are seen by Debian's own Python only, which may not be the first one. */
function findPython () {
  for (const command of ['python3', '/usr/bin/python3']) {
    const { status, stdout } = spawnSync(command, ['-c', PROBE], { encoding: 'utf8' })
    if (status === 0) return { command, ...JSON.parse(stdout) }
  }
  return null
}

async function serve (name, commandFor) {
  const port = await freePort()
  const [command, args] = commandFor(String(port))
  const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' } })
  const server = { name, port, child }
  for (let i = 0; i < 100; i++) {
    if (child.exitCode !== null) break
    try {
      await account(server)
      return server
    } catch {
      await sleep(100)
    }
  }
  child.kill()
  throw new Error(`${name} does not answer`)
}

async function freePort () {
  const server = createServer().listen(0, HOST)
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function account ({ port }) {
  const response = await fetch(`http://${HOST}:${port}/account`)
  return response.json()
}

async function measure (servers) {
  const load = start('load.js')
  const samples = new Map()
  for (const route of ROUTES) {
    for (const server of servers) await slice(load, server, route, WARM_UP)
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const route of ROUTES) {
      for (const server of round % 2 === 0 ? servers : servers.toReversed()) {
        const key = `${route.what}, ${server.name}`
        if (!samples.has(key)) samples.set(key, { what: route.what, on: server.name, slices: [] })
        samples.get(key).slices.push(await slice(load, server, route, Number(options.slice)))
      }
    }
  }
  await load.stop()
  return [...samples.values()].map(({ what, on, slices }) => ({
    what,
    on,
    requestsPerSecond: summarize(slices.map(slice => slice.requestsPerSecond)),
    p50: summarize(slices.map(slice => slice.p50)),
    p99: summarize(slices.map(slice => slice.p99)),
    cpu: summarize(slices.map(slice => slice.cpu))
  }))
}

async function slice (load, server, { path, tasks }, milliseconds) {
  const { port } = server
  const before = await account(server)
  // New connections each time: uvicorn closes idle ones after five seconds.
  await load.call('open', { port, count: CONNECTIONS })
  const { requests, seconds, p50, p99 } = await load.call('run', { port, method: 'POST', path: `${path}/somebody@example.com`, milliseconds })
  await load.call('close', { port })
  let after = await account(server)
  for (let i = 0; after.ended - before.ended < requests * tasks; i++) {
    if (i === 100) throw new Error(`${server.name}: ${after.ended - before.ended} tasks of ${requests * tasks} have run`)
    await sleep(20)
    after = await account(server)
  }
  return { requestsPerSecond: requests / seconds, p50, p99, cpu: (after.cpu - before.cpu) * 1e6 / requests }
}

function print ({ node, cores, peer }, rows) {
  console.log(`Node ${node}; ${peer}; ${cores} cores, one process per server, ${CONNECTIONS} connections. Medians, quartiles in brackets.\n`)
  console.log(`${''.padEnd(44)} ${'requests/s'.padStart(25)} ${'p50 ms'.padStart(8)} ${'p99 ms'.padStart(8)} ${'CPU µs/request'.padStart(22)}`)
  for (const { what, on, requestsPerSecond, p50, p99, cpu } of rows) {
    const columns = [
      `${what}, ${on}`.padEnd(44),
      range(requestsPerSecond).padStart(25),
      p50.median.toFixed(2).padStart(8),
      p99.median.toFixed(2).padStart(8),
      range(cpu).padStart(22)
    ]
    console.log(columns.join(' '))
  }
}

function range ({ median, q1, q3 }) {
  return `${median.toFixed(0)} [${q1.toFixed(0)}, ${q3.toFixed(0)}]`
}

main()
