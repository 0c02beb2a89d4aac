'use strict'

const { createHash } = require('node:crypto')
const fs = require('node:fs')
const { dirname, join, normalize } = require('node:path')
const { keysAround, statementsOf, telling } = require('./reach')

/** Milliseconds for a test file that has not been measured yet. */
const FIRST_LIMIT = 300_000

/** The test files: how long each takes, which statements it reaches, and which mutants it has found before. Kept in a file from run to run. */
exports.Tests = class Tests {
  #root
  #file
  #kept
  /** Keys of the statements of when most tests were measured. */
  #known
  #statements = new Map()

  constructor (root, sources) {
    this.#root = root
    this.#file = join(root, '.cache/mutate/tests.json')
    this.sources = sources
    try {
      const { known, tests } = JSON.parse(fs.readFileSync(this.#file, 'utf8'))
      this.#known = new Set(known)
      this.#kept = tests
    } catch {
      this.#known = new Set()
      this.#kept = {}
    }
    for (const [file, text] of sources) this.#statements.set(file, statementsOf(file, text))
  }

  /** Those of these files that have not passed since they were changed. */
  unknown (files) {
    const unknown = files.filter(file => !this.#kept[file]?.passed || this.#kept[file].digest !== this.#digest(file))
    if (unknown.length > files.length / 2) this.#known = new Set([...this.#statements.values()].flatMap(statements => statements.map(({ key }) => key)))
    return unknown
  }

  /** A test and what it imports of the project, without the sources. */
  #digest (file) {
    const hash = createHash('sha1')
    const seen = new Set()
    const add = name => {
      if (seen.has(name) || this.sources.has(name)) return
      seen.add(name)
      const text = fs.readFileSync(join(this.#root, name), 'utf8')
      hash.update(`${name} ${text}`)
      for (const [, path] of text.matchAll(/(?:from|import\(|require\() ?'(\.[^']*)'/g)) {
        const target = normalize(join(dirname(name), path))
        const found = [target, `${target}.ts`, `${target}/index.ts`].find(candidate => fs.statSync(join(this.#root, candidate), { throwIfNoEntry: false })?.isFile())
        if (found !== undefined) add(found)
      }
    }
    add(file)
    return hash.digest('hex')
  }

  /** Runs a test in a tree of sources that tell, and keeps what it reaches. Resolves with whether it passes. */
  async measure (tree, file) {
    const output = join(this.#root, '.cache/mutate', `reached-${file.replaceAll('/', '-')}`)
    fs.rmSync(output, { force: true })
    const { passed, ms, output: text } = await tree.run([file], { limit: FIRST_LIMIT, reached: output })
    const lines = fs.existsSync(output) ? new Set(fs.readFileSync(output, 'utf8').trimEnd().split('\n')) : new Set()
    fs.rmSync(output, { force: true })
    const reached = []
    for (const line of lines) {
      const [number, source] = line.split(' ')
      const statement = this.#statements.get(source)?.[Number(number)]
      if (statement !== undefined) reached.push(statement.key)
    }
    this.#kept[file] = { ...this.#kept[file], digest: this.#digest(file), passed, ms: Math.round(ms), reached }
    this.save()
    return { passed, text }
  }

  /** The sources, telling which of their statements are reached. */
  get telling () {
    return [...this.sources].map(([file, text]) => [file, telling(file, text)])
  }

  /** Milliseconds after which a test that runs with a mutant hangs. */
  limitOf (files) {
    return files.reduce((sum, file) => sum + this.#kept[file].ms, 0) * 5 + 30_000
  }

  passes (file) {
    return this.#kept[file].passed
  }

  /** Those of these test files that reach a mutant, the likely killers first. */
  reaching (mutant, files) {
    const candidates = files.filter(file => this.#kept[file].passed)
    const inFile = key => key.split(' ')[0] === mutant.file
    const keys = keysAround(this.#statements.get(mutant.file), mutant)
    // A statement that is new since the tests were measured is looked for where it stands.
    for (const key of keys) {
      const all = candidates.filter(file => this.#set(file).has(key))
      if (all.length === 0) {
        if (this.#known.has(key)) break
        continue
      }
      const score = file => {
        const { ms, reached, kills = {} } = this.#kept[file]
        const near = (kills[key] ?? 0) * 4 + (kills[mutant.file] ?? 0)
        // A test that is for this file reaches little else.
        return ms / (reached.filter(inFile).length / reached.length) / (1 + near)
      }
      const scores = new Map(all.map(file => [file, score(file)]))
      return { key, tests: all.sort((a, b) => scores.get(a) - scores.get(b)) }
    }
    return { key: mutant.file, tests: [] }
  }

  #sets = new Map()

  #set (file) {
    if (!this.#sets.has(file)) this.#sets.set(file, new Set(this.#kept[file].reached))
    return this.#sets.get(file)
  }

  /** A test has found a mutant: it is asked sooner for its neighbours. */
  killed (file, mutant, key) {
    const kills = this.#kept[file].kills ??= {}
    for (const name of new Set([key, mutant.file])) kills[name] = (kills[name] ?? 0) + 1
  }

  save () {
    fs.writeFileSync(`${this.#file}.new`, JSON.stringify({ known: [...this.#known], tests: this.#kept }))
    fs.renameSync(`${this.#file}.new`, this.#file)
  }
}
