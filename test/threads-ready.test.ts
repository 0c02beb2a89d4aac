import Module from 'node:module'
import { dirname, join } from 'node:path'
import { test, type Test } from 'tap'
import { defineTask, type ThreadOptions } from '../index'
import { begun, createApp } from './support/server'
import { StubBackend } from './support/stub-backend'
import { moduleFile, typeScriptFile } from './support/threads'

async function rejects (t: Test, file: string, expected: { code: string, message?: string | RegExp }, threads: ThreadOptions = {}) {
  const { app } = await createApp(t, { tasks: [defineTask('task', file)], threads })
  await t.rejects(async () => { await app.ready() }, expected)
}

test('a file that is not there', async t => {
  const file = join(dirname(moduleFile(t, '')), 'missing.js')
  await rejects(t, file, { code: 'FST_BGT_INVALID_MODULE', message: `The module of the background task 'task' must be a file that exists, received ${file}` })
})

test('a module without a handler', async t => {
  for (const [text, received] of [['export const handler = () => {}', 'undefined'], ['export default { run () {} }', '{ run: [Function: run] }']] as const) {
    const file = moduleFile(t, text)
    await rejects(t, file, { code: 'FST_BGT_INVALID_MODULE', message: `The module of the background task 'task' must be a file whose default export is a function, received ${received} from ${file}` })
  }
})

test('a module that cannot be imported', async t => {
  for (const [text, message] of [
    ["import 'not-installed'\nexport default () => {}", /a file that can be imported, received .*task-\d+\.mjs: Cannot find package 'not-installed'/],
    ["throw new Error('at the top')", /: at the top/],
    ["throw 'text'", /: 'text'/],
    ['export default (', /: Unexpected/]
  ] as const) {
    await rejects(t, moduleFile(t, text), { code: 'FST_BGT_INVALID_MODULE', message })
  }
})

test('a module that ends its thread', t => rejects(t, moduleFile(t, 'process.exit(7)'), {
  code: 'FST_BGT_THREAD_DIED', message: /^The thread of the background task 'task' ended before the task: received worker exited with code: 7/
}))

test('threads that are too small to start', t => rejects(t, moduleFile(t, 'export default () => {}'), { code: 'FST_BGT_THREAD_DIED' }, {
  resourceLimits: { maxOldGenerationSizeMb: 4, maxYoungGenerationSizeMb: 1 }
}))

test('TypeScript that this Node cannot load', async t => {
  await rejects(t, typeScriptFile(t), { code: 'FST_BGT_INVALID_MODULE', message: /must be a file that Node v\d.* can load \(compile it to JavaScript, or run Node with a loader for TypeScript\), received .*task\.ts/ })
})

/** Lets something else happen where the plugin asks Node for a module. */
function intercept (t: Test, method: '_load' | '_resolveFilename', wanted: string, instead: () => unknown): void {
  const loader = Module as unknown as Record<typeof method, (name: string, ...args: unknown[]) => unknown>
  const original = loader[method]
  t.teardown(() => { loader[method] = original })
  loader[method] = function (name, ...args) {
    return name === wanted ? instead() : original.call(this, name, ...args)
  }
}

test('piscina is not installed', async t => {
  intercept(t, '_load', 'piscina', () => { throw Object.assign(new Error('no piscina'), { code: 'MODULE_NOT_FOUND' }) })
  await rejects(t, moduleFile(t, 'export default () => {}'), { code: 'FST_BGT_MISSING_PACKAGE', message: /^A task that runs on a thread needs packages .*npm install piscina/ })
  const { app } = await createApp(t, { tasks: [defineTask('task', () => {})] })
  await app.ready()
})

test('piscina is installed, but fails', async t => {
  intercept(t, '_load', 'piscina', () => { throw new Error('out of order') })
  const { app } = await createApp(t, { tasks: [defineTask('task', moduleFile(t, 'export default () => {}'))] })
  await t.rejects(async () => { await app.ready() }, { message: 'out of order' })
})

// esbuild leaves `require.resolve` as it is; webpack makes a number of it.
for (const [bundler, instead] of [
  ['esbuild', () => { throw new Error('not found') }],
  ['webpack', () => 123],
  ['another one', () => '/does/not/exist.js']
] as const) {
  test(`the plugin is in a bundle, by ${bundler}`, async t => {
    intercept(t, '_resolveFilename', './worker', instead)
    await rejects(t, moduleFile(t, 'export default () => {}'), { code: 'FST_BGT_BUNDLED', message: /mark 'fastify-background-tasks' as external/ })
  })
}

test('a process that only hands tasks to a backend needs neither module nor piscina; one that runs them does', async t => {
  const task = defineTask('task', '/does/not/exist.js')
  for (const [definition, worker, works] of [
    [task, false, true],
    [task, {}, false],
    [defineTask('task', '/does/not/exist.js', { local: true }), false, false]
  ] as const) {
    const { app } = await createApp(t, { tasks: [definition], backend: new StubBackend(), worker })
    const ready = (async () => { await app.ready() })()
    if (works) await t.resolves(ready)
    else await t.rejects(ready, { code: 'FST_BGT_INVALID_MODULE' })
  }
})

test('tasks that were added before, and have all threads, do not hold up the start', async t => {
  const spin = defineTask('spin', moduleFile(t, "export default (payload, ctx) => { ctx.progress('begun'); for (;;); }"))
  const { app } = await createApp(t, { tasks: [spin], threads: { max: 1 } })
  const handle = app.backgroundTasks.add(spin)
  await begun(app, handle.id)
  await app.ready()
  t.equal(handle.state, 'running')
  t.equal(await handle.cancel(), true)
})

test('wrong options are refused at registration', async t => {
  for (const threads of [
    5, null, { max: 0 }, { max: 1.5 }, { idleTimeout: -1 }, { idleTimeout: '1 s' }, { idleTimeout: Infinity }, { maxQueue: 0 }, { maxThreads: 1 },
    { resourceLimits: null }, { resourceLimits: { maxOldGenerationSizeMb: 3 } }, { resourceLimits: { stackSizeMb: 0 } }, { resourceLimits: { memory: 5 } }
  ]) {
    await t.rejects(createApp(t, { threads: threads as never }), { code: 'FST_BGT_INVALID_OPTION', message: /'threads' must be { max: / })
  }
  await t.resolves(createApp(t, { threads: { max: 2, idleTimeout: 0, maxQueue: Infinity, resourceLimits: { stackSizeMb: 4 } } }))
})
