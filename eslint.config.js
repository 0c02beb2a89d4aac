'use strict'

const neostandard = require('neostandard')

module.exports = [
  ...neostandard({
    ts: true,
    filesTs: ['**/*.ts', '**/*.mts'],
    ignores: ['**/dist', '.tap']
  }),
  {
    // The plugin and the namespace of its types have one name, as `export =` wants it; TypeScript checks such merging.
    files: ['index.ts'],
    rules: { '@typescript-eslint/no-redeclare': 'off' }
  }
]
