'use strict'

const { spawn, spawnSync } = require('node:child_process')
const { once } = require('node:events')
const { Agent, request } = require('node:http')
const { createServer } = require('node:net')
const { availableParallelism } = require('node:os')
const { resolve } = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')
const { parseArgs } = require('node:util')
const { start } = require('../child')
const { quantile, summarize } = require('../statistics')

/*
 * The latency of an idle route beside tasks that hold their thread. A process for each server; slices take turns. The idle
 * route is asked at a fixed pace, whether the answer before has come or not: a client that waits for it would ask least often
 * when the server is slowest. Each task that is done adds another one, so that the server is asked nothing else meanwhile:
 * requests that add them would be in the way of those that are measured, and the idle server has none.
 */

const HOST = '127.0.0.1'
/** Milliseconds between two requests. */
const PACE = 5
/** Requests, and tasks that end at once, before the first slice: enough for V8 to compile their code. */
const WARM_UP = 5_000
/** Threads that run tasks, the plugin's default. */
const THREADS = Math.max(availableParallelism() - 1, 1)
/** Unsettled tasks: enough that no thread of the pool is ever idle. */
const BACKLOG = 4 * THREADS

const USAGE = `npm run bench:blocking -- [options]

  --json        one JSON object instead of the table
  --build DIR   the build of the plugin (default: dist)
  --rounds N    slices of each server (default: 15)
  --slice MS    length of a slice (default: 4000)
  --primes N    how much work a task is (default: 20000)
`

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    build: { type: 'string', default: 'dist' },
    rounds: { type: 'string', default: '15' },
    slice: { type: 'string', default: '4000' },
    primes: { type: 'string', default: '20000' },
    help: { type: 'boolean', default: false }
  }
})

const agent = new Agent({ keepAlive: true })

async function main () {
  if (options.help) return console.log(USAGE)
  const primes = Number(options.primes)
  const servers = []
  try {
    for (const [name, where, busy] of [
      ['idle server', 'threads', false], ['tasks on the main thread', 'main', true], ['tasks on threads', 'threads', true], ['a bare thread that computes', 'bare', true]
    ]) {
      const child = start('blocking/application.js')
      const port = await child.call('listen', { build: resolve(options.build), where, primes })
      if (busy) await child.call('warmUp', { count: WARM_UP })
      servers.push({ name, tasks: busy ? BACKLOG : 0, stop: () => child.stop(), port })
    }
    const python = findPython()
    if (python === null) console.error('FastAPI and uvicorn are not installed: without them.')
    else for (const busy of [false, true]) servers.push(await fastApi(python, primes, busy))
    const first = preferClient()
    for (const server of servers) await warmUp(server)
    const samples = new Map(servers.map(({ name }) => [name, []]))
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const server of round % 2 === 0 ? servers : servers.toReversed()) samples.get(server.name).push(await slice(server, Number(options.slice)))
    }
    print(samples, first)
  } finally {
    for (const { stop } of servers) await stop()
    agent.destroy()
  }
}

/**
 * Raises the client's priority: its own waits for a core, which it shares with the server, would be measured as the server's. Returns
 * whether the system allows it.
 */
function preferClient () {
  return spawnSync('chrt', ['--fifo', '--pid', '1', process.pid]).status === 0
}

async function warmUp ({ port }) {
  for (let i = 0; i < WARM_UP; i += 10) await Promise.all(Array.from({ length: 10 }, () => ask(port)))
}

/** The latencies of the idle route, in ms, and the tasks settled per second meanwhile. */
async function slice ({ port, tasks }, milliseconds) {
  for (let i = 0; i < tasks; i++) await send(port, 'POST', '/start')
  const before = await done(port)
  const answers = []
  const began = performance.now()
  for (let next = began; next < began + milliseconds; next += PACE) {
    await sleep(Math.max(next - performance.now(), 0))
    answers.push(ask(port))
    // A failed request is reported when the slice is over, and the servers are stopped then.
    answers.at(-1).catch(() => {})
  }
  const latencies = await Promise.all(answers)
  const rate = (await done(port) - before) / (performance.now() - began) * 1000
  if (tasks > 0) await stop(port)
  // Else a server may close a connection as idle just when the next slice uses it.
  agent.destroy()
  return { p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99), rate }
}

/** Resolves when no task is left. */
async function stop (port) {
  await send(port, 'POST', '/stop')
  for (let last = -1, now = await done(port); now !== last; last = now, now = await done(port)) await sleep(200)
}

async function ask (port) {
  const began = performance.now()
  await send(port, 'GET', '/idle')
  return performance.now() - began
}

async function done (port) {
  return (await send(port, 'GET', '/done')).done
}

function send (port, method, path) {
  return new Promise((resolve, reject) => {
    request({ host: HOST, port, method, path, agent }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', chunk => { text += chunk }).on('error', reject).on('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(text))
        else reject(new Error(`${path}: ${response.statusCode}`))
      })
    }).on('error', reject).end()
  })
}

/** Debian's packages are seen by Debian's own Python only, which may not be the first one. */
function findPython () {
  return ['python3', '/usr/bin/python3'].find(command => spawnSync(command, ['-c', 'import fastapi, uvicorn']).status === 0) ?? null
}

async function fastApi (python, primes, busy) {
  const server = createServer().listen(0, HOST)
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  // The same duration, not the same work: Python takes longer for the same work.
  const child = spawn(python, ['-m', 'uvicorn', 'application:app', '--app-dir', __dirname, '--host', HOST, '--port', port, '--no-access-log', '--log-level', 'warning', '--timeout-keep-alive', '75'], {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, PRIMES: String(Math.round(primes / 8)), PYTHONDONTWRITEBYTECODE: '1' }
  })
  for (let i = 0; i < 100 && child.exitCode === null; i++) {
    try {
      await done(port)
      // Each of these tasks takes a thread of the pool.
      return { name: busy ? 'FastAPI, tasks on its thread pool' : 'FastAPI, idle', tasks: busy ? THREADS : 0, port, stop: async () => { child.kill('SIGKILL') } }
    } catch {
      await sleep(100)
    }
  }
  child.kill('SIGKILL')
  throw new Error('FastAPI does not answer')
}

function print (samples, first) {
  const rows = [...samples].map(([name, slices]) => {
    const idle = samples.get(name.startsWith('FastAPI') ? 'FastAPI, idle' : 'idle server')
    return {
      name,
      p50: summarize(slices.map(({ p50 }) => p50)),
      p99: summarize(slices.map(({ p99 }) => p99)),
      rate: summarize(slices.map(({ rate }) => rate)),
      // Compare with the idle server's slice of the same round: a busy machine changes from second to second.
      ratio: summarize(slices.map(({ p99 }, round) => p99 / idle[round].p99))
    }
  })
  if (options.json) return console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), clientFirst: first, rows }, null, 2))
  console.log(`Node ${process.version}, ${availableParallelism()} cores; ${1000 / PACE} requests a second to an idle route, ${options.rounds} slices of ${options.slice} ms. Medians, quartiles in brackets.\n`)
  if (!first) console.log('The client has no priority over the server, which takes root: its own waits for a core are in the figures.\n')
  console.log(`${''.padEnd(36)} ${'tasks/s'.padStart(8)} ${'p50 ms'.padStart(8)} ${'p99 ms'.padStart(22)} ${'p99 / idle'.padStart(22)}`)
  for (const { name, rate, p50, p99, ratio } of rows) {
    console.log(`${name.padEnd(36)} ${rate.median.toFixed(0).padStart(8)} ${p50.median.toFixed(2).padStart(8)} ${range(p99).padStart(22)} ${range(ratio).padStart(22)}`)
  }
}

function range ({ median, q1, q3 }) {
  return `${median.toFixed(2)} [${q1.toFixed(2)}, ${q3.toFixed(2)}]`
}

main()
