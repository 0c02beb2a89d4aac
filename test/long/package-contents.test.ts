import { readdir } from 'node:fs/promises'
import { join, posix, resolve, sep } from 'node:path'
import { test } from 'tap'
import { pack } from '../support/package'

const root = resolve(__dirname, '../..')

/** The sources that are compiled: all of `lib` and `types` but the page, which is in the package as its bundle. */
async function sources (): Promise<string[]> {
  const lists = await Promise.all(['lib', 'types'].map(async folder => (await readdir(join(root, folder), { recursive: true })).map(file => posix.join(folder, ...file.split(sep)))))
  return ['index.ts', ...lists.flat()].filter(file => file.endsWith('.ts') && !file.startsWith('lib/dashboard/page/'))
}

test('the package has what is compiled from its sources, and nothing else', async t => {
  const { files, manifest } = await pack(t)
  const compiled = (await sources()).flatMap(file => ['.js', '.d.ts'].map(end => `dist/${file.slice(0, -3)}${end}`))
  t.ok(compiled.includes('dist/index.js') && compiled.includes('dist/lib/fastify/options.js') && compiled.includes('dist/types/public.d.ts'))
  t.same(files, ['LICENSE', 'README.md', 'package.json', ...compiled].sort())

  for (const [entry, targets] of Object.entries(manifest.exports)) {
    for (const target of typeof targets === 'string' ? [targets] : Object.values(targets as Record<string, string>)) {
      t.ok(files.includes(posix.normalize(target)), `${entry} has ${target}`)
    }
  }
})
