import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'

// A file that no test loads is invisible to the coverage gate.

test('every file of the package can be loaded', async t => {
  const root = join(__dirname, '..')
  const files = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  t.ok(files.length > 15)
  for (const file of files) t.type(require(join(root, 'lib', file)), 'object', file)
  t.type(require(join(root, 'index')), 'function')
})
