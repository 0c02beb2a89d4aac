import { readFile } from 'node:fs/promises'
import { join, posix } from 'node:path'
import { test } from 'tap'
import { pack } from './support/package'

test('the package has its sources, what is compiled from them, and nothing else', async t => {
  const { files, folder, manifest } = await pack(t)
  const sources = files.filter(file => /^(index|(lib|types)\/.+)\.ts$/.test(file))
  t.ok(sources.includes('index.ts') && sources.includes('lib/options.ts') && sources.includes('types/public.ts'))
  t.notOk(sources.some(file => file.endsWith('.tst.ts')), 'no tests')
  const compiled = sources.flatMap(file => ['.js', '.js.map', '.d.ts', '.d.ts.map'].map(end => `dist/${file.slice(0, -3)}${end}`))
  t.same(files, ['LICENSE', 'README.md', 'package.json', ...sources, ...compiled].sort())

  for (const map of files.filter(file => file.endsWith('.map'))) {
    const { sources, sourceRoot } = JSON.parse(await readFile(join(folder, map), 'utf8')) as { sources: string[], sourceRoot: string }
    t.same(
      sources.map(source => posix.join(posix.dirname(map), sourceRoot, source)),
      [map.replace(/^dist\//, '').replace(/\.(js|d\.ts)\.map$/, '.ts')],
      `${map} leads to its source`
    )
    const text = await readFile(join(folder, map.slice(0, -'.map'.length)), 'utf8')
    t.ok(text.trimEnd().endsWith(`//# sourceMappingURL=${posix.basename(map)}`), `${map} is found from its file`)
  }

  for (const [entry, targets] of Object.entries(manifest.exports)) {
    for (const target of typeof targets === 'string' ? [targets] : Object.values(targets as Record<string, string>)) {
      t.ok(files.includes(posix.normalize(target)), `${entry} has ${target}`)
    }
  }
})
