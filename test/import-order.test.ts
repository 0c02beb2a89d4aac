import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'tap'

/** The floors of the house: a file imports only from its own folder and from those before it. */
const ORDER = [
  'types', 'lib/shared', 'lib/task', 'lib/observe', 'lib/run', 'lib/store', 'lib/threads', 'lib/collect', 'lib/schedule', 'lib/backends', 'lib/di', 'lib/dashboard',
  'lib/fastify', '.'
]

/** A backend is written against the interface alone. */
const OF_BACKENDS = ['types', 'lib/shared', 'lib/backends']

const root = join(__dirname, '..')
const files = new Set(['index.ts', ...['lib', 'types'].flatMap(folder => readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
  .filter(file => /\.tsx?$/.test(file)).map(file => `${folder}/${file}`))])

/** The files that a file imports, by types or by values. */
function importsOf (file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/(?:from|import|import\(|require\() ?'(\.[^']*)'/g)].map(([, path]) => {
    const target = normalize(join(dirname(file), path as string))
    return ['.ts', '.tsx', '/index.ts'].map(end => target + end).find(candidate => files.has(candidate)) ?? `${target}: no such file`
  })
}

function floorOf (file: string): string {
  return file.startsWith('lib/') ? file.split('/').slice(0, 2).join('/') : dirname(file)
}

/** Whether a file is shared by all backends, or of the same backend, in whichever of its folders. */
function isBackendsOwn (from: string, to: string): boolean {
  const backendOf = (file: string) => file.split('/').slice(0, 3).join('/')
  return dirname(to) === 'lib/backends' || backendOf(to) === backendOf(from)
}

/** The files of a circle of imports, if there is one. */
function circle (imports: ReadonlyMap<string, string[]>): string[] | null {
  const over = new Set<string>()
  const visit = (file: string, path: string[]): string[] | null => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
    if (over.has(file)) return null
    for (const next of imports.get(file) ?? []) {
      const found = visit(next, [...path, file])
      if (found !== null) return found
    }
    over.add(file)
    return null
  }
  for (const file of imports.keys()) {
    const found = visit(file, [])
    if (found !== null) return found
  }
  return null
}

test('imports go up the floors of the house only', async t => {
  t.ok(files.size > 100)
  for (const file of files) {
    const floor = floorOf(file)
    t.ok(ORDER.includes(floor), `${file} stands on a floor`)
    for (const imported of importsOf(file)) {
      const to = floorOf(imported)
      t.ok(ORDER.includes(to) && ORDER.indexOf(to) <= ORDER.indexOf(floor), `${file} imports ${imported}`)
      if (floor === 'lib/backends') t.ok(OF_BACKENDS.includes(to) && (to !== floor || isBackendsOwn(file, imported)), `${file}, a backend, imports ${imported}`)
    }
  }
})

test('no files import each other in a circle, neither by types nor by values', async t => {
  t.equal(circle(new Map([...files].map(file => [file, importsOf(file)])))?.join(' imports '), undefined)
})

test('a circle would be found', async t => {
  t.same(circle(new Map([['a', ['b', 'c']], ['b', []], ['c', ['d']], ['d', ['b', 'c']]])), ['c', 'd', 'c'])
})
