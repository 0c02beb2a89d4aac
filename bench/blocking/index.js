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
 * How long an idle route takes while another one keeps adding tasks that hold their thread. A process for each server;
 * slices take turns. The idle route is asked at a fixed pace, whether the answer before has come or not: a client that
 * waits for it would ask least often when the server is slowest.
 */

const HOST = '127.0.0.1'
/** Milliseconds between two requests. */
const PACE = 5
/** Milliseconds between two looks how many tasks are done, a request that the idle server does not have: about as long as a task. */
const LOOK = 20
const WARM_UP = 500
/** Tasks that have been added and not been done: so many that no thread of the pool is ever without one. */
const BACKLOG = 4 * Math.max(availableParallelism() - 1, 1)

const USAGE = `npm run bench:blocking -- [options]

  --json        one JSON object instead of the table
  --build DIR   the build of the plugin (default: dist)
  --rounds N    slices of each server (default: 10)
  --slice MS    length of a slice (default: 2000)
  --primes N    how much work a task is (default: 20000)
`

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    build: { type: 'string', default: 'dist' },
    rounds: { type: 'string', default: '10' },
    slice: { type: 'string', default: '2000' },
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
    for (const [name, threads, busy] of [['idle server', true, false], ['tasks on the main thread', false, true], ['tasks on threads', true, true]]) {
      const child = start('blocking/application.js')
      servers.push({ name, busy, stop: () => child.stop(), port: await child.call('listen', { build: resolve(options.build), threads, primes }) })
    }
    const python = findPython()
    if (python === null) console.error('FastAPI and uvicorn are not installed: without them.')
    else for (const busy of [false, true]) servers.push(await fastApi(python, primes, busy))
    for (const server of servers) await slice(server, WARM_UP)
    const samples = new Map(servers.map(({ name }) => [name, []]))
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const server of round % 2 === 0 ? servers : servers.toReversed()) samples.get(server.name).push(await slice(server, Number(options.slice)))
    }
    print(samples)
  } finally {
    for (const { stop } of servers) await stop()
    agent.destroy()
  }
}

/** The latencies of the idle route, in ms, and how many tasks were done meanwhile. */
async function slice ({ port, busy }, milliseconds) {
  const before = await done(port)
  const end = performance.now() + milliseconds
  const adding = busy ? add(port, before, end) : null
  const answers = []
  for (let next = performance.now(); next < end; next += PACE) {
    await sleep(Math.max(next - performance.now(), 0))
    answers.push(ask(port))
  }
  const latencies = await Promise.all(answers)
  const tasks = await done(port) - before
  if (adding !== null) await settle(port, before + await adding)
  return { p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99), tasks: tasks / milliseconds * 1000 }
}

/** Keeps tasks waiting, until the time is over. Resolves with how many it has added. */
async function add (port, before, end) {
  let added = 0
  while (performance.now() < end) {
    if (added < await done(port) - before + BACKLOG) {
      await send(port, 'POST', '/work')
      added++
    } else {
      await sleep(LOOK)
    }
  }
  return added
}

async function settle (port, count) {
  for (let i = 0; await done(port) < count; i++) {
    if (i === 1_000) throw new Error(`not all of ${count} tasks have run`)
    await sleep(20)
  }
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
  // The same time of work, not the same work: Python takes longer for it.
  const child = spawn(python, ['-m', 'uvicorn', 'application:app', '--app-dir', __dirname, '--host', HOST, '--port', port, '--no-access-log', '--log-level', 'warning'], {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, PRIMES: String(Math.round(primes / 8)), PYTHONDONTWRITEBYTECODE: '1' }
  })
  for (let i = 0; i < 100 && child.exitCode === null; i++) {
    try {
      await done(port)
      return { name: busy ? 'FastAPI, tasks on its thread pool' : 'FastAPI, idle', busy, port, stop: async () => { child.kill() } }
    } catch {
      await sleep(100)
    }
  }
  child.kill()
  throw new Error('FastAPI does not answer')
}

function print (samples) {
  const rows = [...samples].map(([name, slices]) => {
    const idle = samples.get(name.startsWith('FastAPI') ? 'FastAPI, idle' : 'idle server')
    return {
      name,
      p50: summarize(slices.map(({ p50 }) => p50)),
      p99: summarize(slices.map(({ p99 }) => p99)),
      tasks: summarize(slices.map(({ tasks }) => tasks)),
      // To the idle server's slice of the same round: a busy machine changes from second to second.
      ratio: summarize(slices.map(({ p99 }, round) => p99 / idle[round].p99))
    }
  })
  if (options.json) return console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), rows }, null, 2))
  console.log(`Node ${process.version}, ${availableParallelism()} cores; ${1000 / PACE} requests a second to an idle route, ${options.rounds} slices of ${options.slice} ms. Medians, quartiles in brackets.\n`)
  console.log(`${''.padEnd(36)} ${'tasks/s'.padStart(8)} ${'p50 ms'.padStart(8)} ${'p99 ms'.padStart(22)} ${'p99 / idle'.padStart(22)}`)
  for (const { name, tasks, p50, p99, ratio } of rows) {
    console.log(`${name.padEnd(36)} ${tasks.median.toFixed(0).padStart(8)} ${p50.median.toFixed(2).padStart(8)} ${range(p99).padStart(22)} ${range(ratio).padStart(22)}`)
  }
}

function range ({ median, q1, q3 }) {
  return `${median.toFixed(2)} [${q1.toFixed(2)}, ${q3.toFixed(2)}]`
}

main()
