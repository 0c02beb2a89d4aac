import { build, type Format } from 'esbuild'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { root, run } from '../support/package'
import { assetsPlugin } from '../../lib/dashboard/page/bundle'
import { noPostgres, noRedis, postgres, redis } from '../support/services'
import { noSqlite } from '../support/sqlite'

// One file that holds the application, the plugin and its packages, run where none of them is installed.

const BUNDLED: Array<[format: Format, extension: string, banner: string]> = [
  ['cjs', 'cjs', ''],
  ['esm', 'mjs', "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"]
]

const APPLICATION = `
  import Fastify from 'fastify'
  import backgroundTasks, { defineTask } from './index'
  import { bullmq } from './lib/backends/bullmq'
  import { sqlite } from './lib/backends/sqlite'
  import { BackgroundTasksInstrumentation } from './lib/observe/otel'
  import { dashboard } from './lib/dashboard'

  const [kind, place] = process.argv.slice(2)
  new BackgroundTasksInstrumentation().enable()

  const greet = defineTask('greet', (name: string) => { console.log('hello ' + name) })
  const backends = { redis: bullmq, postgres: bullmq, sqlite: ({ connection }) => sqlite({ file: connection }) }

  async function main () {
    const app = Fastify()
    await app.register(backgroundTasks, kind === 'threads'
      ? { tasks: [defineTask('threaded', place)] }
      : { tasks: [greet], ...(kind !== 'none' && { backend: backends[kind]({ connection: place }) }) })
    await app.register(dashboard)
    app.post('/', async request => {
      request.backgroundTasks.add(greet, 'Ada')
      return 'answer'
    })
    await app.ready()
    console.log((await app.inject({ method: 'POST', url: '/' })).body)
    const ran = () => app.backgroundTasks.stats().completed
    for (const deadline = Date.now() + 60_000; ran() === 0 && Date.now() < deadline;) await new Promise(resolve => setTimeout(resolve, 10))
    await app.close()
  }

  main().catch(error => { console.log(error.code + ': ' + error.message) })
`

async function bundle (t: Test, format: Format, extension: string, banner: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'background-tasks-bundle-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const outfile = join(folder, `app.${extension}`)
  await build({
    stdin: { contents: APPLICATION, resolveDir: root, loader: 'ts' },
    bundle: true,
    platform: 'node',
    format,
    outfile,
    // Older versions of pg ask for it where esbuild cannot see that it is optional.
    external: ['pg-native'],
    // As the package is built: its page is bundled already.
    plugins: [assetsPlugin],
    banner: { js: banner },
    // That the file of the threads is missing from a bundle is what one of the tests is about.
    logOverride: { 'require-resolve-not-external': 'silent' }
  })
  await writeFile(join(folder, 'task.mjs'), 'export default () => {}')
  return outfile
}

for (const [format, extension, banner] of BUNDLED) {
  test(`a bundle, as ${format}`, async t => {
    const file = await bundle(t, format, extension, banner)
    const start = (kind: string, place = '') => run(process.execPath, [file, kind, place], join(file, '..'))

    t.test('runs tasks', async t => {
      t.same((await start('none')).split('\n').sort(), ['', 'answer', 'hello Ada'])
    })

    t.test('has BullMQ and the client of Redis', { skip: noRedis }, async t => {
      t.same((await start('redis', (await redis(t)).url)).split('\n').sort(), ['', 'answer', 'hello Ada'])
    })

    // One server is enough: both forms of a bundle have BullMQ in the same way.
    if (format === 'cjs') {
      t.test('has BullMQ and the client of Postgres', { skip: noPostgres }, async t => {
        t.same((await start('postgres', (await postgres(t)).url)).split('\n').sort(), ['', 'answer', 'hello Ada'])
      })
    }

    t.test('has SQLite', { skip: noSqlite }, async t => {
      t.same((await start('sqlite', join(file, '../tasks.db'))).split('\n').sort(), ['', 'answer', 'hello Ada'])
    })

    t.test('says that it has no threads, and what to do', async t => {
      t.match(await start('threads', join(file, '../task.mjs')), /^FST_BGT_BUNDLED: .* mark 'fastify-background-tasks' as external/)
    })
  })
}
