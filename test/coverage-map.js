'use strict'

const { readdirSync } = require('node:fs')
const { isBuiltin } = require('node:module')

// What needs a module that this version of Node does not have cannot run here, and is left out.
const canRun = file => isBuiltin('node:sqlite') || !file.includes('sqlite')

// Every test counts for the whole of the package, and for nothing else.
const files = readdirSync('lib', { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts'))
  .filter(canRun)
  .map(file => `lib/${file}`)

module.exports = () => ['index.ts', ...files]
