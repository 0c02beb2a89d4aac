'use strict'

const { readdirSync } = require('node:fs')

/** What no test can run on a Node without `node:sqlite`. */
const NEEDS_SQLITE = /^backends\/(node-)?sqlite/
const hasSqlite = process.getBuiltinModule?.('node:sqlite') !== undefined

// Every test counts for the whole of the package, and for nothing else.
const files = readdirSync('lib', { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts') && (hasSqlite || !NEEDS_SQLITE.test(file)))
  .map(file => `lib/${file}`)

module.exports = () => ['index.ts', ...files]
