'use strict'

/*
 * The loader of TypeScript asks this for the JavaScript of each file. The compiler makes it once: otherwise that
 * would be most of what a test file costs, as each is a process of its own.
 */

const { createHash } = require('node:crypto')
const { mkdirSync, readFileSync, renameSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')
const { version } = require('typescript/package.json')

const folder = join(__dirname, '../../.cache/transpiled')

exports.create = ({ service: { config: { options } } }) => {
  const known = `${version} ${JSON.stringify(options)}`

  return {
    transpile (code, { fileName }) {
      const key = createHash('sha1').update(`${known} ${fileName} ${code}`).digest('hex')
      const file = join(folder, `${key}.json`)
      try {
        return JSON.parse(readFileSync(file, 'utf8'))
      } catch {
        // It has not been made yet.
      }
      const { outputText, sourceMapText } = require('typescript').transpileModule(code, { fileName, compilerOptions: options })
      mkdirSync(folder, { recursive: true })
      // Another process finds it whole or not at all.
      const unfinished = `${file}.${process.pid}`
      writeFileSync(unfinished, JSON.stringify({ outputText, sourceMapText }))
      renameSync(unfinished, file)
      return { outputText, sourceMapText }
    }
  }
}
