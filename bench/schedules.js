'use strict'

const Fastify = require('fastify')
const { fork } = require('node:child_process')
const { once } = require('node:events')
const { mkdtempSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join } = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')

/*
 * The cost of schedules between their due times: the CPU time of a process that does nothing else, in ms for each minute. Four processes at
 * once: with no schedule and with a hundred, in the process and in a file of SQLite. Takes two minutes; SQLite needs Node 22.13.
 */

const SCHEDULES = 100
const SETTLE_MS = 5_000
const MEASURED_MS = 120_000

const SUBJECTS = [
  ['in the process, no schedule', 0, false],
  [`in the process, ${SCHEDULES} schedules`, SCHEDULES, false],
  ['SQLite, no schedule', 0, true],
  [`SQLite, ${SCHEDULES} schedules`, SCHEDULES, true]
]

async function measure (schedules, file) {
  const { default: backgroundTasks, defineTask } = require('../dist')
  const { sqlite } = require('../dist/lib/backends/sqlite')
  const task = defineTask('task', async () => {})
  const app = Fastify()
  // Due once a year: nothing is due while this runs, but perhaps on New Year's Eve.
  const entries = Array.from({ length: schedules }, (_, i) => [`schedule-${i}`, { task, cron: '0 0 31 12 *' }])
  await app.register(backgroundTasks, { tasks: [task], schedules: Object.fromEntries(entries), ...(file !== undefined && { backend: sqlite({ file }) }) })
  await app.listen({ port: 0, host: '127.0.0.1' })
  await sleep(SETTLE_MS)
  const before = process.cpuUsage()
  await sleep(MEASURED_MS)
  const { user, system } = process.cpuUsage(before)
  await app.close()
  return (user + system) / 1_000 / (MEASURED_MS / 60_000)
}

async function main () {
  const folder = mkdtempSync(join(tmpdir(), 'background-tasks-schedules-'))
  const figures = await Promise.all(SUBJECTS.map(async ([, schedules, isStored], i) => {
    const child = fork(__filename, [String(schedules), ...(isStored ? [join(folder, `${i}.db`)] : [])])
    const [figure] = await once(child, 'message')
    return figure
  }))
  rmSync(folder, { recursive: true })
  for (const [i, [name]] of SUBJECTS.entries()) console.log(`${figures[i].toFixed(0).padStart(6)} ms of CPU a minute: ${name}`)
}

if (process.send === undefined) main()
else measure(Number(process.argv[2]), process.argv[3]).then(figure => process.send(figure, () => process.exit()))
