'use strict'

const { fork } = require('node:child_process')
const fs = require('node:fs')
const { join } = require('node:path')
const { parseArgs } = require('node:util')
const { forget } = require('./compiled')
const { differenceOf, mutantsOf, mutate } = require('./mutants')
const { shuffled, wilson } = require('./statistics')
const { Tests } = require('./tests')
const { Tree } = require('./tree')

const USAGE = `npm run mutate -- [options]

  --seed N        decides which mutants are the sample (default: 1)
  --sample N      how many mutants (default: 60, about ten minutes on two quiet cores)
  --all           all mutants, instead of a sample
  --folder PATH   of this folder or file alone; more than once for several
  --mutant ID     this mutant alone, with the output of the test that finds it; more than once for several
  --long          with the tests of test/long, too
  --with FILE     with this test of test/long, too; more than once for several
  --workers N     processes of tests at a time (default: 2)
`

const { values: options } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    sample: { type: 'string', default: '60' },
    all: { type: 'boolean', default: false },
    folder: { type: 'string', multiple: true },
    mutant: { type: 'string', multiple: true },
    long: { type: 'boolean', default: false },
    with: { type: 'string', multiple: true, default: [] },
    workers: { type: 'string', default: '2' },
    help: { type: 'boolean', default: false }
  }
})

/** Tests that run alone before the rest share processes. */
const ALONE = 8
/** Tests that share a process: starting it is most of what a short one costs. */
const TOGETHER = 8
/** How often a test that has found mutants has to pass without one. */
const KILLS_PER_CONTROL = 10

const root = process.cwd()

/** The project's own sources: the page of the dashboard runs in a browser. */
function sourceFiles () {
  const files = fs.existsSync('lib') ? fs.readdirSync('lib', { recursive: true, encoding: 'utf8' }).map(file => `lib/${file}`) : []
  return ['index.ts', ...files.sort()].filter(file => fs.existsSync(file) && file.endsWith('.ts') && !file.endsWith('.d.ts') && !file.startsWith('lib/dashboard/page/'))
}

function testFiles () {
  const files = ['test', ...(options.long ? ['test/long'] : [])]
    .flatMap(folder => fs.readdirSync(folder).filter(file => file.endsWith('.test.ts')).map(file => `${folder}/${file}`))
  return [...new Set([...files, ...options.with])]
}

/** Mutants that no test can find, because they change nothing that can be seen; each with its reason. */
function equivalentOnes () {
  const file = join(root, 'mutate/equivalent.json')
  return fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : []
}

class Run {
  #sources = new Map(sourceFiles().map(file => [file, fs.readFileSync(file, 'utf8')]))
  #files = testFiles()
  #tests = new Tests(root, this.#sources)
  #trees = Array.from({ length: Number(options.workers) }, (_, index) => new Tree(root, String(index + 1)))
  #equivalent = equivalentOnes()
  #results = []
  /** How many mutants each test has found since it last passed without one. */
  #unchecked = new Map()
  #flaky = new Map()
  #controls = 0
  #refused = 0
  #left
  #waiting
  #compiler
  #answers = new Map()

  async go () {
    const all = [...this.#sources].flatMap(([file, text]) => mutantsOf(file, text))
    const { folder, mutant } = options
    const chosen = all.filter(({ file, id }) => mutant?.includes(id) ?? folder?.some(path => file === path || file.startsWith(`${path.replace(/\/$/, '')}/`)) ?? true)
    this.#waiting = mutant === undefined ? shuffled(chosen, Number(options.seed)) : chosen
    this.#left = options.all || mutant !== undefined ? chosen.length : Number(options.sample)
    console.log(`${all.length} mutants in ${this.#sources.size} files, ${chosen.length} of them to choose from`)

    fs.mkdirSync(join(root, '.cache/mutate'), { recursive: true })
    for (const tree of this.#trees) await tree.prepare()
    await this.#measure()
    this.#compiler = fork(join(__dirname, 'compiler.js'), [root, ...this.#sources.keys()])
    this.#compiler.on('message', ({ id, compiles }) => this.#answers.get(id)(compiles))
    try {
      await Promise.all(this.#trees.map(tree => this.#work(tree)))
    } finally {
      this.#compiler.disconnect()
      this.#tests.save()
    }
    for (const result of this.#results) if (result.verdict === 'survived' && this.#isEquivalent(result)) result.verdict = 'equivalent'
    this.#report()
  }

  /** Runs each test that is new or changed once, without a mutant. */
  async #measure () {
    const unknown = this.#tests.unknown(this.#files)
    if (unknown.length === 0) return
    console.log(`running ${unknown.length} test files to see what they reach`)
    await Promise.all(this.#trees.map(async tree => {
      tree.change(this.#tests.telling)
      for (let file = unknown.pop(); file !== undefined; file = unknown.pop()) {
        const { passed, text } = await this.#tests.measure(tree, file)
        if (!passed) console.log(`${file} fails without a mutant:\n${text.split('\n').filter(line => /not ok|Error/.test(line)).slice(0, 5).join('\n')}`)
      }
      tree.change([])
    }))
  }

  /** Takes one mutant after the other. The next one is compiled meanwhile. */
  async #work (tree) {
    let next = this.#next()
    for (let mutant = await next; mutant !== null; mutant = await next) {
      next = this.#next()
      const result = await this.#judge(tree, mutant)
      this.#results.push(result)
      this.#tell(result)
    }
    await next
  }

  #tell ({ mutant, verdict, by, tests, before, after }) {
    const more = by === undefined ? '' : `  by ${by}`
    console.log(`${String(this.#results.length).padStart(5)}  ${verdict.padEnd(10)}  ${mutant.id}${more}`)
    if (verdict === 'survived') console.log(`       ${tests} test files\n       - ${before}\n       + ${after}`)
  }

  /** The next mutant that compiles. */
  async #next () {
    while (this.#left > 0) {
      const mutant = this.#waiting.shift()
      if (mutant === undefined) return null
      this.#left--
      const text = mutate(this.#sources.get(mutant.file), mutant)
      const compiles = await new Promise(resolve => {
        this.#answers.set(mutant.id, resolve)
        this.#compiler.send({ id: mutant.id, file: mutant.file, text })
      })
      this.#answers.delete(mutant.id)
      if (compiles) return mutant
      this.#refused++
      if (options.mutant !== undefined) console.log(`${mutant.id} does not compile`)
      this.#left++
    }
    return null
  }

  async #judge (tree, mutant) {
    const { key, tests } = this.#tests.reaching(mutant, this.#files)
    const text = mutate(this.#sources.get(mutant.file), mutant)
    const result = { mutant, tests: tests.length, ...differenceOf(this.#sources.get(mutant.file), mutant) }
    if (tests.length === 0) return { ...result, verdict: 'unreached' }
    tree.change([[mutant.file, text]])
    const killer = await this.#killerOf(tree, mutant, text, tests)
    tree.change([])
    forget(join(root, '.cache/mutate/compiled'), text)
    if (killer === null) return { ...result, verdict: 'survived' }
    this.#tests.killed(killer, mutant, key)
    return { ...result, verdict: 'killed', by: killer }
  }

  async #killerOf (tree, mutant, text, tests) {
    for (let at = 0; at < tests.length;) {
      const some = tests.slice(at, at + (at < ALONE ? 1 : TOGETHER))
      at += some.length
      // A failure of tests that share a process may come from the sharing.
      if (some.length > 1 && (await this.#run(tree, some)).passed) continue
      for (const file of some) {
        if (this.#flaky.has(file)) continue
        const { passed, output } = await this.#run(tree, [file])
        if (passed) continue
        if (options.mutant !== undefined) console.log(output)
        if (await this.#isReliable(tree, file)) return file
        tree.change([[mutant.file, text]])
      }
    }
    return null
  }

  #run (tree, files) {
    return tree.run(files, { limit: this.#tests.limitOf(files) })
  }

  /** Whether a test that has failed with a mutant passes without: asked at its first kill in a run, and now and then. */
  async #isReliable (tree, file) {
    const kills = this.#unchecked.get(file)
    if (kills !== undefined && kills < KILLS_PER_CONTROL) {
      this.#unchecked.set(file, kills + 1)
      return true
    }
    tree.change([])
    this.#controls++
    const { passed, output } = await this.#run(tree, [file])
    if (passed) this.#unchecked.set(file, 0)
    else this.#flaky.set(file, output)
    return passed
  }

  #isEquivalent ({ mutant, before, after }) {
    return this.#equivalent.some(known => known.file === mutant.file && known.before === before && known.after === after)
  }

  #report () {
    const survivors = this.#results.filter(({ verdict }) => verdict === 'survived').sort((a, b) => a.mutant.id.localeCompare(b.mutant.id, 'en', { numeric: true }))
    for (const { mutant, before, after, tests } of survivors) console.log(`\n${mutant.file}:${mutant.line} survived ${tests} test files (--mutant ${mutant.id})\n- ${before}\n+ ${after}`)

    const folders = new Map()
    for (const { mutant, verdict } of this.#results) {
      // lib/run, but lib/backends/sqlite.
      const name = mutant.file.split('/').slice(0, -1).slice(0, mutant.file.startsWith('lib/backends/') ? 3 : 2).join('/') || mutant.file
      for (const folder of [name, 'all']) {
        const row = folders.get(folder) ?? { killed: 0, survived: 0, equivalent: 0, unreached: 0 }
        row[verdict]++
        folders.set(folder, row)
      }
    }
    console.log(`\n${'folder'.padEnd(24)}${'killed'.padStart(12)}${'share'.padStart(9)}${'95 %'.padStart(14)}${'equivalent'.padStart(12)}${'unreached'.padStart(11)}`)
    const names = [...folders.keys()].filter(name => name !== 'all').sort()
    for (const name of folders.has('all') ? [...names, 'all'] : names) {
      const { killed, survived, equivalent, unreached } = folders.get(name)
      const total = killed + survived
      const [low, high] = wilson(killed, total)
      const percent = share => (share * 100).toFixed(1)
      console.log(name.padEnd(24) + `${killed}/${total}`.padStart(12) + (total === 0 ? '–' : `${percent(killed / total)} %`).padStart(9) +
        (total === 0 ? '–' : `${percent(low)}–${percent(high)}`).padStart(14) + String(equivalent).padStart(12) + String(unreached).padStart(11))
    }
    console.log(`\nseed ${options.seed}; ${this.#refused} more did not compile; ${this.#controls} controls without a mutant, and one of each test file when it was measured`)
    const failing = this.#files.filter(file => !this.#tests.passes(file))
    if (failing.length !== 0) console.log(`not used, as they fail without a mutant: ${failing.join(', ')}`)
    for (const [file, output] of this.#flaky) console.log(`flaky, not counted: ${file}\n${output.split('\n').filter(line => line.includes('not ok')).join('\n')}`)
    if (folders.get('all')?.unreached > 0) console.log(options.long ? 'unreached: no test reaches them' : 'unreached: by the short tests; --long runs the others, too')
  }
}

if (options.help) console.log(USAGE)
else new Run().go().catch(error => { console.error(error); process.exitCode = 1 })
