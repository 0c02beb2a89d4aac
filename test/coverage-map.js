'use strict'

const { readdirSync } = require('node:fs')

/** Files that no test can run on a Node without `node:sqlite`. */
const NEEDS_SQLITE = /^backends\/(node-)?sqlite/
/** Files that run in a browser alone. The page's models are measured. */
const IN_BROWSER = /^dashboard\/page\/(?!model\/)/
const hasSqlite = process.getBuiltinModule?.('node:sqlite') !== undefined

// Every test counts for the whole of the package, and for nothing else.
const files = readdirSync('lib', { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts') && !IN_BROWSER.test(file) && (hasSqlite || !NEEDS_SQLITE.test(file)))
  .map(file => `lib/${file}`)

module.exports = () => ['index.ts', ...files]
