import { readFile } from 'node:fs/promises'
import { join, posix } from 'node:path'
import { test } from 'tap'
import { pack } from '../support/package'

const MAX_FILES = 120
const MAX_BYTES = 600_000
/** The longest message, and some. */
const MAX_LINE = 1_000

/** The files that a file refers to by a relative path, without their ends. */
async function referredTo (folder: string, file: string): Promise<string[]> {
  const text = await readFile(join(folder, file), 'utf8')
  return [...text.matchAll(/(?:from|import|import\(|require\(|require\.resolve\() ?["'](\.[^"']*)["']/g)].map(([, path]) => posix.join(posix.dirname(file), path as string))
}

/** The files that entries need, to run or for their types: those of this end. */
async function reachable (folder: string, files: readonly string[], entries: readonly string[], end: '.js' | '.d.ts'): Promise<string[]> {
  const reached = new Set<string>()
  const visit = async (file: string): Promise<void> => {
    if (reached.has(file)) return
    reached.add(file)
    for (const path of await referredTo(folder, file)) {
      const found = [path, path + end, `${path}/index${end}`].find(candidate => files.includes(candidate))
      if (found === undefined) throw new Error(`${file} refers to ${path}, which is missing`)
      await visit(found)
    }
  }
  for (const entry of entries) await visit(entry)
  return [...reached]
}

test('the package', async t => {
  const { bytes, files, folder, manifest } = await pack(t)

  t.test('is small', async t => {
    t.ok(files.length <= MAX_FILES, `${files.length} files`)
    t.ok(bytes <= MAX_BYTES, `${bytes} bytes`)
  })

  t.test('has what its entries need, and nothing else', async t => {
    const targets = Object.values(manifest.exports).flatMap(targets => typeof targets === 'string' ? [] : [targets as { types: string, default: string }])
    t.ok(targets.length > 5)
    const scripts = await reachable(folder, files, targets.map(target => posix.normalize(target.default)), '.js')
    const declarations = await reachable(folder, files, targets.map(target => posix.normalize(target.types)), '.d.ts')
    t.ok(scripts.includes('dist/lib/threads/worker.js'))
    t.ok(declarations.includes('dist/types/collector.d.ts'))
    t.same(files, ['LICENSE', 'README.md', 'package.json', ...scripts, ...declarations].sort())
  })

  t.test('has JavaScript that can be read', async t => {
    // The text of the page is one line, as a browser gets it.
    for (const file of files.filter(file => file.endsWith('.js') && !file.endsWith('/assets.js'))) {
      const lines = (await readFile(join(folder, file), 'utf8')).split('\n')
      t.same(lines.filter(line => line.length > MAX_LINE || line.startsWith('//# sourceMappingURL')), [], file)
    }
  })
})
