import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'tap'

// Each example is run as its readers would: by its own runner, in a process of its own.
for (const [runner, file, expected] of [
  ['tap', 'tap.test.ts', /^ok 3 - a task is a function/m],
  ['node:test', 'node.test.ts', /# pass 4[^]*# fail 0/]
] as const) {
  test(`the example of tests with ${runner} passes`, async t => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [
      // The loader of TypeScript.
      ...process.execArgv.filter(argument => argument.includes('@tapjs/typescript')),
      ...(runner === 'node:test' ? ['--test-reporter=tap'] : []),
      join(__dirname, '../examples/testing', file)
    ], { encoding: 'utf8', env: { ...process.env, TAP: '1', NODE_TEST_CONTEXT: undefined } })
    t.equal(status, 0, stderr + stdout)
    t.match(stdout, expected)
  })
}
