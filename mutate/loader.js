'use strict'

/*
 * Preloaded into each process of a test: compiles TypeScript, keeping the result. It costs half of what tap's loader does, which is what
 * most of a run would be.
 */

const { createHash } = require('node:crypto')
const { mkdirSync, readFileSync, renameSync, writeFileSync } = require('node:fs')
const Module = require('node:module')
const { join } = require('node:path')

const folder = process.env.MUTATE_COMPILED

Module._extensions['.ts'] = (module, file) => {
  const text = readFileSync(file, 'utf8')
  const kept = join(folder, `${createHash('sha1').update(text).digest('hex')}.js`)
  let code
  try {
    code = readFileSync(kept, 'utf8')
  } catch {
    const ts = require('typescript')
    code = ts.transpileModule(text, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16, esModuleInterop: true },
      fileName: file
    }).outputText
    mkdirSync(folder, { recursive: true })
    // Another process finds it whole or not at all.
    writeFileSync(`${kept}.${process.pid}`, code)
    renameSync(`${kept}.${process.pid}`, kept)
  }
  module._compile(code, file)
}

// Several test files are one process: each adds its tests to those of the first.
const more = process.env.MUTATE_MORE
if (more) {
  delete process.env.MUTATE_MORE
  process.nextTick(() => { for (const file of more.split('\n')) require(file) })
}
