'use strict'

const { readdirSync } = require('node:fs')

// Every test counts for the whole of the package, and for nothing else.
const files = readdirSync('lib', { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts'))
  .map(file => `lib/${file}`)

module.exports = () => ['index.ts', ...files]
