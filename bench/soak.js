'use strict'

const Fastify = require('fastify')
const { once } = require('node:events')
const { connect } = require('node:net')
const { setFlagsFromString } = require('node:v8')
const { runInNewContext } = require('node:vm')
const { parseArgs } = require('node:util')

/*
 * A million tasks of every kind through real HTTP: they must all be accounted for, and the heap must not grow. Requests
 * go out in rounds over connections that are kept alive; after each round, when nothing is under way, the heap is
 * measured. Client and server share the process, so that a leak on either side shows.
 */

const HOST = '127.0.0.1'
const TASKS_PER_REQUEST = 12

/** Of twenty requests, the number that fail, and the number whose client leaves. */
const FAILING = 2
const LEFT = 1

/**
 * The heap moves a little from one measurement to the next, and code that is compiled late takes some of it. A task that
 * is kept costs 200 bytes, a request 5,000: a leak is far beyond this.
 */
const NOISE = 500_000
const GROWTH_PER_TASK = 1

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc')

/** The states that a request of each kind adds to `stats()`. */
const ACCOUNTS = {
  answered: { accepted: TASKS_PER_REQUEST, completed: 7, failed: 2, dropped: 1, cancelled: 1, replaced: 1, retried: 1 },
  failing: { accepted: TASKS_PER_REQUEST, completed: 3, dropped: 7, cancelled: 1, replaced: 1 }
}
ACCOUNTS.left = ACCOUNTS.answered

async function turn () {
  await new Promise(resolve => { setImmediate(resolve) })
}

async function start ({ default: backgroundTasks, defineTask }) {
  const app = Fastify({ logger: { level: 'info', stream: { write () {} } } })
  const defined = defineTask('defined', async ({ number }, ctx) => {
    ctx.progress(number)
    await turn()
    return number
  })
  await app.register(backgroundTasks, { tasks: [defined] })
  let number = 0

  function addTasks (tasks, payload) {
    tasks.add(() => { tasks.add(async text => { await text }, 'added by a task') })
    tasks.add({ timeout: 60_000, signal: true }, async (object, signal) => {
      await turn()
      signal.throwIfAborted()
    }, payload)
    tasks.add({ timeout: 1, signal: true }, signal => once(signal, 'abort'))
    tasks.add(async object => { throw new Error(`task ${object.number} fails`) }, payload)
    let attempts = 0
    tasks.add({ attempts: 2, delay: 1 }, () => { if (++attempts === 1) throw new Error('not yet') })
    tasks.add({ key: 'once' }, () => {})
    tasks.add({ key: 'once' }, () => {})
    tasks.add({ runOn: 'failure' }, () => {})
    tasks.add(() => {}, payload).cancel()
    tasks.add(defined, { number: payload.number })
    app.backgroundTasks.add(turn)
  }

  app.get('/:kind', async (request, reply) => {
    addTasks(request.backgroundTasks, { number: ++number, text: 'x'.repeat(100) })
    const { kind } = request.params
    if (kind === 'left') {
      const left = once(reply.raw, 'close')
      app.server.emit('left', request.raw.socket.remotePort)
      await left
    }
    if (kind === 'failing') throw new Error('the handler fails')
    return { kind }
  })
  app.setErrorHandler(async (error, request, reply) => {
    // Instead of the task that a task adds: the outer task does not run.
    request.backgroundTasks.add(() => {})
    return reply.code(500).send({ message: error.message })
  })
  await app.listen({ port: 0, host: HOST })
  return app
}

/** A connection that is kept alive, with one request under way at a time. */
class Client {
  #socket = null
  #received = ''

  async open (port) {
    this.#socket = connect({ port, host: HOST, noDelay: true })
    this.#socket.on('error', () => {})
    this.#socket.setEncoding('latin1')
    await once(this.#socket, 'connect')
    return this.#socket
  }

  async request (kind) {
    const socket = this.#socket
    socket.write(`GET /${kind} HTTP/1.1\r\nhost: ${HOST}\r\n\r\n`)
    this.#received = ''
    while (!/\r\n\r\n.*\}$/s.test(this.#received)) this.#received += (await once(socket, 'data'))[0]
  }

  /** Leaves when the handler has begun. */
  async leave (server) {
    const socket = this.#socket
    const { localPort } = socket
    const closed = once(socket, 'close')
    const leave = port => {
      if (port !== localPort) return
      server.off('left', leave)
      socket.resetAndDestroy()
    }
    server.on('left', leave)
    socket.write(`GET /left HTTP/1.1\r\nhost: ${HOST}\r\n\r\n`)
    await closed
  }

  close () {
    this.#socket.destroy()
  }
}

async function round (app, clients, requests, expected) {
  const { port } = app.server.address()
  let next = 0
  await Promise.all(clients.map(async client => {
    while (next < requests) {
      const place = next++ % 20
      const kind = place < FAILING ? 'failing' : place < FAILING + LEFT ? 'left' : 'answered'
      for (const [name, count] of Object.entries(ACCOUNTS[kind])) expected[name] += count
      if (kind === 'left') {
        await client.leave(app.server)
        await client.open(port)
      } else {
        await client.request(kind)
      }
    }
  }))
}

/** A delayed task does not hold `idle()`. */
async function ended (app) {
  do {
    await turn()
    await app.backgroundTasks.idle()
  } while (unsettled(app.backgroundTasks.stats()) !== 0)
}

function unsettled ({ collecting, pending, running }) {
  return collecting + pending + running
}

async function heap () {
  // Objects released in this turn can be collected in the next one.
  for (let i = 0; i < 3; i++) {
    await turn()
    gc()
  }
  return process.memoryUsage().heapUsed
}

function median (values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
}

/**
 * @param {{ default: Function, defineTask: Function }} plugin the package
 * @param {{ requests: number, rounds: number, connections: number, report?: (line: string) => void }} options
 * @returns the errors found, and the growth of the heap in bytes, measured and at most, from the second quarter to the last
 */
async function soak (plugin, { requests, rounds, connections, report = () => {} }) {
  const app = await start(plugin)
  const begun = performance.now()
  const expected = Object.fromEntries(Object.keys(app.backgroundTasks.stats()).map(name => [name, 0]))
  const problems = []
  const heaps = []
  try {
    const clients = Array.from({ length: connections }, () => new Client())
    await Promise.all(clients.map(client => client.open(app.server.address().port)))
    report('   requests       tasks   heap, MB    rss, MB          s')
    for (let i = 1; i <= rounds; i++) {
      await round(app, clients, Math.round(requests / rounds), expected)
      await ended(app)
      heaps.push(await heap())
      const stats = app.backgroundTasks.stats()
      for (const [name, count] of Object.entries(expected)) {
        if (stats[name] !== count) problems.push(`after round ${i}, ${name} is ${stats[name]} instead of ${count}`)
      }
      report([
        i * Math.round(requests / rounds),
        stats.accepted,
        (heaps.at(-1) / 1e6).toFixed(2),
        (process.memoryUsage().rss / 1e6).toFixed(0),
        ((performance.now() - begun) / 1_000).toFixed(1)
      ].map((cell, index) => String(cell).padStart(index === 1 ? 12 : 11)).join(''))
    }
    for (const client of clients) client.close()
  } finally {
    await app.close()
  }
  const quarter = Math.ceil(rounds / 4)
  const growth = median(heaps.slice(-quarter)) - median(heaps.slice(quarter, 2 * quarter))
  // As many tasks lie between the middles of the two quarters.
  const maxGrowth = NOISE + GROWTH_PER_TASK * requests * TASKS_PER_REQUEST / 2
  if (growth > maxGrowth) problems.push(`the heap grew by ${growth} bytes, which is more than ${maxGrowth}`)
  return { problems, growth, maxGrowth, stats: app.backgroundTasks.stats() }
}

async function main () {
  const { values } = parseArgs({
    options: {
      requests: { type: 'string', default: '100000' },
      rounds: { type: 'string', default: '20' },
      connections: { type: 'string', default: '32' }
    }
  })
  const { problems, growth, maxGrowth, stats } = await soak(require('../dist'), {
    requests: Number(values.requests),
    rounds: Number(values.rounds),
    connections: Number(values.connections),
    report: line => console.log(line)
  })
  console.log(`\nheap: ${growth < 0 ? '' : '+'}${(growth / 1e6).toFixed(2)} MB from the second quarter to the last (at most ${(maxGrowth / 1e6).toFixed(2)} MB)`)
  console.log(Object.entries(stats).map(([name, count]) => `${name}: ${count}`).join(', '))
  for (const problem of problems) console.error(problem)
  process.exitCode = problems.length === 0 ? 0 : 1
}

module.exports = { soak }

if (require.main === module) main()
