import { readFileSync, existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { test } from 'tap'
import { errorCodes } from '../index'
import { SURFACE } from './support/surface'

/*
 * The pages agree with the project: their code is taken from the examples, which tests run, their links lead
 * somewhere, and the commands they name exist. A comment `// …`, alone on its line, stands for lines left out.
 */

const root = resolve(__dirname, '..')
const read = (file: string) => readFileSync(join(root, file), 'utf8')
const manifest = JSON.parse(read('package.json')) as { name: string, scripts: Record<string, string>, exports: Record<string, { default: string } | string> }

/** How the examples import the package, and how its users do. */
const IMPORTS = Object.entries(manifest.exports).flatMap(([entry, target]) => typeof target === 'string'
  ? []
  : [[`/${target.default.replace(/^\.\/dist\/|(?<=\w\/.*)\/index(?=\.js)|\.js$/g, '')}'`, `'${manifest.name}${entry.slice(1)}'`] as const])

function asUser (code: string): string {
  return code.replace(/'(?:\.\.\/)*\.\.(\/[^']+')/g, (whole, path) => IMPORTS.find(([own]) => own === path)?.[1] ?? whole)
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf (page: string): string[] {
  return [...page.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => (heading as string).toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-'))
}

/** Without the indentation that all its lines have. */
function dedent (lines: string[]): string[] {
  const margin = Math.min(...lines.filter(line => line !== '').map(line => line.search(/\S/)))
  return lines.map(line => line.slice(margin))
}

/** Whether all the pieces are there, in this order, at any indentation. */
function contains (file: string, pieces: string[][]): boolean {
  const lines = file.split('\n')
  let from = 0
  return pieces.every(piece => {
    const wanted = dedent(piece).join('\n')
    for (let at = from; at + piece.length <= lines.length; at++) {
      if (dedent(lines.slice(at, at + piece.length)).join('\n') !== wanted) continue
      from = at + piece.length
      return true
    }
    return false
  })
}

/** The parts of a block between its `// …`. */
function piecesOf (block: string): string[][] {
  return block.split(/^ *\/\/ …\n/m).map(piece => piece.replace(/^\n+|\n+$/g, '').split('\n'))
}

test('the pages', async t => {
  const pages = [...(await readdir(root)), ...(await readdir(join(root, 'docs'))).map(file => `docs/${file}`)].filter(file => file.endsWith('.md'))
  const tests = (await readdir(join(root, 'test'), { recursive: true })).filter(file => file.endsWith('.test.ts')).map(file => read(`test/${file}`))
  // An example counts if a test names it, or the folder that it is in.
  const isTested = (example: string) => {
    const path = (example.includes('/') ? dirname(example).split('/')[0] : example.replace(/\.ts$/, '')) as string
    return tests.some(text => text.includes(`examples/${path}`) || text.includes(`'${path}'`))
  }
  const examples = (await readdir(join(root, 'examples'), { recursive: true }))
    .filter(file => /^(?!dist\/).*\.(?:m?ts|[mc]js)$/.test(file) && isTested(file))
    .map(file => asUser(read(`examples/${file}`)))
  t.ok(pages.includes('README.md') && pages.includes('docs/backends.md') && examples.length >= 10)

  for (const page of pages) {
    const text = read(page)

    for (const [, block] of text.matchAll(/^```(?:ts|mts|cts|js|mjs|cjs|typescript|javascript)\n(.*?)^```$/gms) as Iterable<[string, string]>) {
      t.ok(examples.some(example => contains(example, piecesOf(block))), `${page}: this code is in an example:\n${block}`)
    }

    for (const [, link, anchor] of text.matchAll(/\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]+))?\)/g) as Iterable<[string, string, string?]>) {
      const target = link === '' ? page : join(dirname(page), link)
      t.ok(existsSync(join(root, target)), `${page}: the link to ${link}`)
      if (anchor !== undefined) t.ok(anchorsOf(read(target)).includes(anchor), `${page}: the heading ${link}#${anchor}`)
    }

    for (const [, script] of text.matchAll(/npm run (?:--silent )?([\w:-]+)/g) as Iterable<[string, string]>) {
      t.ok(Object.hasOwn(manifest.scripts, script), `${page}: npm run ${script}`)
    }
  }
})

test('the page on TypeScript has all entries, and all types that users name', async t => {
  const page = read('docs/typescript.md')
  for (const [entry, { types }] of Object.entries(SURFACE)) {
    t.ok(page.includes(`| \`${manifest.name}${entry.slice(1)}\` |`), `the entry ${entry}`)
    for (const type of types) t.match(page, new RegExp(`\\b${type}\\b`), `${type} of ${entry}`)
  }
})

test('the page on errors has all codes, and no other ones', async t => {
  const codes = [...new Set(read('docs/errors.md').match(/FST_BGT_\w+/g))]
  const warnings = ['observe/report', 'shared/write-log'].flatMap(file => read(`lib/${file}.ts`).match(/(?<=')FST_BGT_\w+(?=')/g) ?? [])
    .filter(code => !Object.hasOwn(errorCodes, code))
  t.same(codes.sort(), [...new Set([...Object.keys(errorCodes), ...warnings])].sort())
})

test('CONTRIBUTING has all commands', async t => {
  const page = read('CONTRIBUTING.md')
  for (const script of Object.keys(manifest.scripts).filter(script => script !== 'prepack')) {
    t.match(page, new RegExp(`\`npm (run )?${script}\``), script)
  }
})

test('code that is in no example is found out', async t => {
  const example = 'function a () {\n  one()\n  two()\n}\n'
  t.ok(contains(example, piecesOf('one()\ntwo()\n')))
  t.ok(contains(example, piecesOf('function a () {\n  // …\n  two()\n}\n')))
  t.notOk(contains(example, piecesOf('one()\nthree()\n')))
  t.notOk(contains(example, piecesOf('two()\n// …\none()\n')), 'in another order')
  t.equal(asUser("import a from '../../index'\nimport b from '../types/awilix'\nimport c from '../other'"), `import a from '${manifest.name}'\nimport b from '${manifest.name}/awilix'\nimport c from '../other'`)
})
