import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { test, type Test } from 'tap'

/* The runner of mutants finds what the tests of a small project do not notice, and says what it found. */

const root = join(__dirname, '..')

const AGES = `export function isAdult (age: number): boolean {
  return age >= 18
}

export function unused (): number {
  return 1
}
`

/** A project of its own, with these tests. */
function project (t: Test, files: Record<string, string>): string {
  const folder = t.testdir({})
  const all = {
    'package.json': '{ "type": "commonjs" }',
    '.gitignore': 'node_modules\n.cache\n',
    'tsconfig.json': '{ "compilerOptions": { "strict": true, "types": [], "lib": ["es5"], "skipLibCheck": true } }',
    'lib/people/ages.ts': AGES,
    ...files
  }
  for (const [file, text] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    writeFileSync(join(folder, file), text)
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  execFileSync('git', ['init', '--quiet'], { cwd: folder })
  return folder
}

function mutate (folder: string, ...options: string[]): string {
  const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '' }
  return execFileSync(process.execPath, [join(root, 'mutate/index.js'), ...options], { cwd: folder, encoding: 'utf8', env })
}

/** It speaks as tap does, without the time that tap takes to load. */
const TEST_OF_ADULTS = `import assert from 'node:assert'
import { isAdult } from '../lib/people/ages'
console.log('1..1')
assert.equal(isAdult(30), true)
assert.equal(isAdult(3), false)
`

test('a mutant that the tests do not notice is told with its line; others are counted', async t => {
  const folder = project(t, { 'test/ages.test.ts': TEST_OF_ADULTS })
  const output = mutate(folder, '--all')
  t.match(output, /lib\/people\/ages\.ts:2 survived 1 test files? \(--mutant lib\/people\/ages\.ts:2:\d+:\d+\)\n- return age >= 18\n\+ return age > 18\n/)
  t.match(output, /^lib\/people +5\/6 +83\.3 % +43\.6–97\.0 +0 +2$/m)
})

test('a test that fails without the mutant, too, finds nothing, and is told of', async t => {
  // It passes once: when it is measured.
  const folder = project(t, {})
  const mark = join(folder, 'has-run')
  mkdirSync(join(folder, 'test'))
  writeFileSync(join(folder, 'test/flaky.test.ts'), `${TEST_OF_ADULTS}
import { writeFileSync } from 'node:fs'
writeFileSync(${JSON.stringify(mark)}, '', { flag: 'wx' })
`)
  const output = mutate(folder, '--mutant', 'lib/people/ages.ts:2:10:1')
  t.match(output, /^lib\/people\/ages\.ts:2 survived 1 test files/m)
  t.match(output, /^flaky, not counted: test\/flaky\.test\.ts$/m)
})

test('a seed decides what is in a sample', async t => {
  const { shuffled } = createRequire(__filename)('../../mutate/statistics') as { shuffled (list: number[], seed: number): number[] }
  const list = Array.from({ length: 100 }, (_, index) => index)
  const first = shuffled(list, 1)
  t.same(shuffled(list, 1), first)
  t.notSame(shuffled(list, 2), first)
  t.same(first.sort((a, b) => a - b), list)
})
