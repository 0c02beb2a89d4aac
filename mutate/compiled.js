'use strict'

const { createHash } = require('node:crypto')
const { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')

const pathOf = (folder, text) => join(folder, `${createHash('sha1').update(text).digest('hex')}.js`)

/** The JavaScript of a TypeScript file, made once for each text and kept in a folder. */
exports.compiled = (folder, text, fileName) => {
  const kept = pathOf(folder, text)
  try {
    return readFileSync(kept, 'utf8')
  } catch {
    // It has not been made yet.
  }
  const ts = require('typescript')
  const { outputText } = ts.transpileModule(text, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16, esModuleInterop: true },
    fileName
  })
  mkdirSync(folder, { recursive: true })
  // Another process finds it whole or not at all.
  writeFileSync(`${kept}.${process.pid}`, outputText)
  renameSync(`${kept}.${process.pid}`, kept)
  return outputText
}

exports.forget = (folder, text) => rmSync(pathOf(folder, text), { force: true })
