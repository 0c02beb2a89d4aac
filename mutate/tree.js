'use strict'

const { execFileSync, spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const { tmpdir } = require('node:os')
const { dirname, join } = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')

/** How much of a test's output is kept, of its end. */
const OUTPUT_LENGTH = 100_000

/** A copy of the project, in which one source at a time is changed and one process of tests runs. */
exports.Tree = class Tree {
  #root
  #folder
  #compiled
  #texts = new Map()

  constructor (root, name) {
    this.#root = root
    this.#folder = join(root, '.cache/mutate', name)
    this.#compiled = join(root, '.cache/mutate/compiled')
  }

  /** Makes the copy, with what Git knows of or would take up. */
  async prepare () {
    await fs.promises.rm(this.#folder, { recursive: true, force: true })
    const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: this.#root, encoding: 'utf8', maxBuffer: 1 << 28 })
    for (const file of listed.split('\0').filter(Boolean)) {
      const from = join(this.#root, file)
      if (!fs.existsSync(from)) continue
      fs.mkdirSync(dirname(join(this.#folder, file)), { recursive: true })
      fs.copyFileSync(from, join(this.#folder, file))
    }
    fs.symlinkSync(join(this.#root, 'node_modules'), join(this.#folder, 'node_modules'))
  }

  /** Puts these texts in the place of sources, until the next call. */
  change (texts) {
    for (const [file, text] of this.#texts) this.#write(file, text)
    this.#texts.clear()
    for (const [file, text] of texts) {
      this.#texts.set(file, fs.readFileSync(join(this.#folder, file), 'utf8'))
      this.#write(file, text)
    }
  }

  #write (file, text) {
    fs.writeFileSync(join(this.#folder, file), text)
  }

  /**
   * Runs test files in one process, up to their first failure.
   * @returns {Promise<{ passed: boolean, ms: number, output: string }>}
   */
  async run (tests, { limit, reached }) {
    // The path is short, as those of sockets have to be; servers that drop their rights have to come in.
    const temporary = fs.mkdtempSync(join(tmpdir(), 'mutant-'))
    fs.chmodSync(temporary, 0o755)
    const began = performance.now()
    const [first, ...rest] = tests
    const child = spawn(process.execPath, [join(this.#folder, first)], {
      cwd: this.#folder,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        NODE_OPTIONS: `--require=${join(__dirname, 'loader.js')}`,
        TAP: '1',
        TAP_BAIL: '1',
        TAP_TIMEOUT: String(Math.ceil(limit / 1000)),
        TMPDIR: temporary,
        MUTATE_COMPILED: this.#compiled,
        MUTATE_MORE: rest.map(file => join(this.#folder, file)).join('\n'),
        ...(reached === undefined ? {} : { MUTATE_REACHED: reached })
      }
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', text => { output = (output + text).slice(-OUTPUT_LENGTH) })
    }
    let late = false
    const timer = setTimeout(() => {
      late = true
      end(child)
    }, limit)
    const closed = once(child, 'close')
    const [code] = await once(child, 'exit')
    clearTimeout(timer)
    // A mutant may have left servers behind, which hold the output open.
    end(child)
    await Promise.race([closed, sleep(1000, undefined, { ref: false })])
    await fs.promises.rm(temporary, { recursive: true, force: true, maxRetries: 5 })
    // A process that ends in the middle of a test ends well, too, but has no plan.
    return { passed: code === 0 && !late && /^1\.\.\d/m.test(output), ms: performance.now() - began, output }
  }
}

/** Ends the processes of a test, which are one group. */
function end (child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // None is left.
  }
}
