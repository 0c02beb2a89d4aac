'use strict'

const neostandard = require('neostandard')

const TIMERS = ['clearImmediate', 'clearInterval', 'clearTimeout', 'performance', 'setImmediate', 'setInterval', 'setTimeout']

module.exports = [
  ...neostandard({
    ts: true,
    filesTs: ['**/*.ts', '**/*.tsx', '**/*.mts'],
    ignores: ['**/dist', '.tap', '.cache']
  }),
  {
    // The plugin and the namespace of its types have one name, as `export =` wants it; TypeScript checks such merging.
    files: ['index.ts'],
    rules: { '@typescript-eslint/no-redeclare': 'off' }
  },
  {
    // Fake timers of a user's test must not stop the plugin. The dashboard's page runs in a browser.
    files: ['index.ts', 'lib/**/*.ts'],
    ignores: ['lib/shared/timers.ts', 'lib/dashboard/page/**'],
    rules: {
      'no-restricted-globals': ['error', ...TIMERS.map(name => ({ name, message: 'Take it from lib/shared/timers.' }))],
      'no-restricted-imports': ['error', 'timers', 'node:timers', 'timers/promises', 'node:timers/promises']
    }
  }
]
