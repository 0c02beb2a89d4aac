import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { test } from 'tap'
import { root, run } from '../support/package'
import { noPostgres, noRedis } from '../support/services'

// The folder `direct` can be deleted: the package then stores tasks by BullMQ's public calls, and keeps all its promises.

const LEFT_OUT = ['.cache', '.git', '.tap', 'dist', 'examples', 'node_modules', 'direct']

/** A file of tests with the conformance suite for one server. */
const suite = (server: 'redis' | 'postgres') => `
import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { bullmq } from '../lib/backends/bullmq'
import { ${server === 'postgres' ? 'beginOnPostgres, ' : ''}conformance, repeatable } from './support/conformance'
import { ${server} } from './support/services'

test('${server}', async t => {
  const { url } = await ${server}(t)
  const options = async () => {
    const queue = \`conformance-\${randomUUID()}\`
    return repeatable(() => ({ backend: bullmq({ connection: url, queue }) }))
  }
  conformance(t, { options, durable: true${server === 'postgres' ? ', begin: t => beginOnPostgres(t, url)' : ''} })
})
`

test('without the folder and the two lines that name it', { skip: noRedis || noPostgres }, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'background-tasks-without-direct-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  await cp(root, folder, { recursive: true, filter: source => source === root || !LEFT_OUT.includes(basename(source)) })
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  const file = join(folder, 'lib/backends/bullmq/choose-writer.ts')
  const lines = (await readFile(file, 'utf8')).split('\n')
  const kept = lines.filter(line => !line.includes('directWriter'))
  t.equal(lines.length - kept.length, 2)
  await writeFile(file, kept.join('\n'))
  await t.resolves(run('npx', ['tsc', '--noEmit', '--noUnusedLocals', 'false', '--noUnusedParameters', 'false', '-p', 'tsconfig.build.json'], folder), 'it compiles')

  const suites = ['redis', 'postgres'] as const
  for (const server of suites) await writeFile(join(folder, `test/without-${server}.test.ts`), suite(server))
  await t.resolves(run('npx', ['tap', 'run', '--disable-coverage', '-j2', ...suites.map(server => `test/without-${server}.test.ts`)], folder), 'the conformance suite')
})
