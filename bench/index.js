'use strict'

const { availableParallelism } = require('node:os')
const { resolve } = require('node:path')
const { parseArgs } = require('node:util')
const { start } = require('./child')
const http = require('./http')
const rows = require('./rows')
const { summarize } = require('./statistics')

const USAGE = `npm run bench -- [options]

  --only ID        this row alone; more than once for several: ${rows.map(row => row.id).join(', ')}
  --json           one JSON object instead of the table
  --build DIR      the build to measure (default: dist)
  --against DIR    another build as the baseline of the rows over HTTP, instead of their own
  --separate       a server process for each side, so that neither collects the other's garbage
  --processes N    server processes per row (default: 4)
  --pairs N        pairs of slices per server process (default: 30)
  --slice MS       length of a slice (default: 100); those of the awilix row are four times as long
`

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: rows.map(row => row.id) },
    json: { type: 'boolean', default: false },
    build: { type: 'string', default: 'dist' },
    against: { type: 'string' },
    separate: { type: 'boolean', default: false },
    processes: { type: 'string', default: '4' },
    pairs: { type: 'string', default: '30' },
    slice: { type: 'string', default: '100' },
    help: { type: 'boolean', default: false }
  }
})

async function main () {
  const unknown = options.only.filter(id => !rows.some(row => row.id === id))
  if (options.help || unknown.length !== 0) {
    if (!options.help) process.exitCode = 1
    console.log(options.help ? USAGE : `no such row: ${unknown.join(', ')}\n\n${USAGE}`)
    return
  }
  const machine = { node: process.version, cores: availableParallelism(), platform: process.platform, arch: process.arch }
  if (!options.json) printHead(machine)
  const results = []
  const measured = new Map()
  for (const row of rows.filter(row => options.only.includes(row.id))) {
    const result = { ...row, ...await measure(row, measured) }
    result.verdict = row.budget === null ? null : result.median <= row.budget ? 'within' : 'over'
    results.push(result)
    if (!options.json) printRow(result)
  }
  if (options.json) console.log(JSON.stringify({ machine, rows: results }, null, 2))
}

async function measure (row, measured) {
  if (row.child === 'server') {
    const { ratios, cpu } = await http.measure(row.id, {
      build: resolve(options.build),
      against: options.against && resolve(options.against),
      separate: options.separate || row.separate === true,
      processes: Number(options.processes),
      pairs: Number(options.pairs),
      milliseconds: Number(options.slice) * (row.times ?? 1)
    })
    return { ...summarize(ratios), cpu }
  }
  if (!measured.has(row.child)) {
    const child = start(`${row.child}.js`, ['--expose-gc'])
    measured.set(row.child, await child.call('measure', { build: resolve(options.build) }))
    await child.stop()
  }
  return summarize(measured.get(row.child)[row.id])
}

function printHead ({ node, cores, platform, arch }) {
  console.log(`Node ${node}, ${cores} cores, ${platform} ${arch}. Ratios of CPU time: median, and the quartiles in brackets.\n`)
  console.log(`${'budget'.padStart(7)} / measured`)
}

function printRow ({ id, what, against, budget, median, q1, q3, verdict, cpu }) {
  const format = number => number.toFixed(median < 10 ? 3 : 0)
  const figures = `${String(budget ?? '–').padStart(7)} / ${format(median)} [${format(q1)}, ${format(q3)}]`
  const micros = cpu === undefined ? '' : ` (${cpu.plugin.median.toFixed(1)} and ${cpu.baseline.median.toFixed(1)} µs a request)`
  console.log(`${figures.padEnd(34)} ${(verdict ?? '').padEnd(6)} ${id}: ${what}`)
  console.log(`${''.padEnd(42)}against ${against}${micros}`)
}

main()
