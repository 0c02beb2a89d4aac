'use strict'

/*
 * Preloaded into each process of a test: compiles TypeScript, keeping the result. It costs half of what tap's loader does, which is what
 * most of a run would be.
 */

const { readFileSync } = require('node:fs')
const Module = require('node:module')
const { compiled } = require('./compiled')

Module._extensions['.ts'] = (module, file) => module._compile(compiled(process.env.MUTATE_COMPILED, readFileSync(file, 'utf8'), file), file)

// Several test files are one process: each adds its tests to those of the first.
const more = process.env.MUTATE_MORE
if (more) {
  delete process.env.MUTATE_MORE
  process.nextTick(() => { for (const file of more.split('\n')) require(file) })
}
