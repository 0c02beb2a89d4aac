'use strict'

/*
 * node test/run.js [--complete] [ARGUMENT...]: runs tap with these arguments, by default over the short tests. At the end it says what
 * has failed, and what this machine could not run, once for each reason, and prints the line "N passed, N failed, N skipped".
 *
 * With --complete coverage is measured and has to pass the gate, and a test that is skipped is a failure. The gate is not 100 %: a branch
 * that only a race takes may be missed in a run, which says nothing of a change. The report names each line that was missed.
 */

const { spawnSync } = require('node:child_process')
const { mkdtempSync, readFileSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { dirname, join } = require('node:path')

/** The least share of the lines, statements, functions and branches, in per cent. */
const GATE = 99.5

const options = process.argv.slice(2)
const complete = options[0] === '--complete'
// Long tests measured for coverage, on a busy machine, take longer than `.taprc` gives them.
if (complete) options.splice(0, 1, '--timeout=1200', '--allow-incomplete-coverage', '--coverage-report=text', '--coverage-report=json-summary')
else options.unshift('--disable-coverage')
// The reporter of a terminal moves the cursor.
if (!process.stdout.isTTY) options.unshift('--reporter=min')

const summary = join(__dirname, '../.tap/report/coverage-summary.json')
rmSync(summary, { force: true })

const folder = mkdtempSync(join(tmpdir(), 'background-tasks-run-'))
const output = join(folder, 'output.tap')
const tap = join(dirname(require.resolve('tap')), '../esm/run.mjs')
const { status } = spawnSync(process.execPath, [tap, 'run', `--output-file=${output}`, ...options], { stdio: 'inherit' })
const lines = readFileSync(output, 'utf8').split('\n')
rmSync(folder, { recursive: true })

const count = name => Number(lines.findLast(line => line.startsWith('# { total: '))?.match(`\\b${name}: (\\d+)`)?.[1] ?? 0)
const reasons = new Map()
for (const line of lines) {
  const reason = /^\s*ok .* # (?:SKIP|TODO) (.*)/.exec(line)?.[1]
  if (reason !== undefined) reasons.set(reason, (reasons.get(reason) ?? 0) + 1)
}
// The reporter does not tell of every one, such as a file whose process was killed.
for (const line of lines) if (/^(?: {4})*not ok /.test(line)) console.log(line)
if (reasons.size !== 0) {
  console.log('\nNot run on this machine:')
  for (const [reason, tests] of reasons) console.log(`${String(tests).padStart(6)}  ${reason}`)
}
const missed = complete ? belowGate() : []
for (const { name, percent } of missed) console.log(`\n${percent} % of the ${name} are covered, less than ${GATE} %`)
console.log(`\n${count('pass')} passed, ${count('fail')} failed, ${count('skip') + count('todo')} skipped`)
process.exitCode = status === 0 && count('pass') !== 0 && missed.length === 0 && !(complete && reasons.size !== 0) ? 0 : 1

function belowGate () {
  const { total } = JSON.parse(readFileSync(summary, 'utf8'))
  return ['lines', 'statements', 'functions', 'branches'].map(name => ({ name, percent: total[name].pct })).filter(({ percent }) => !(percent >= GATE))
}
