'use strict'

/*
 * Builds the package from its sources into `dist`, beside the declarations that the compiler has written there: a file of JavaScript for
 * each folder of `lib`, without comments but not minified, and of the declarations those that a user's imports can reach.
 */

const { transformSync } = require('esbuild')
const { existsSync, readdirSync, rmSync } = require('node:fs')
const { dirname, isAbsolute, join, relative } = require('node:path')
const { rollup } = require('rollup')
const ts = require('typescript')
const { assetsText } = require('./lib/dashboard/page/bundle')

const sourceOf = path => join(__dirname, `${path}.ts`)
const { exports: entries } = require('./package.json')
const paths = Object.values(entries).flatMap(({ default: file }) => file === undefined ? [] : [/^\.\/dist\/(.*)\.js$/.exec(file)[1]])

/** Files of their own: what is loaded alone, or only sometimes. */
const ALONE = ['lib/dashboard/assets', 'lib/observe/otel', 'lib/threads/worker']

/** The file that a source becomes part of: that of its folder. Backends have folders within theirs. */
function chunkOf (id) {
  const path = relative(__dirname, id).replaceAll('\\', '/').slice(0, -3)
  if (ALONE.includes(path)) return path
  return /^lib\/(backends\/\w+(?=\/)|\w+)/.exec(path)?.[0]
}

/** Sources become ES modules. TypeScript removes types and comments; esbuild, which keeps some comments, indents by two spaces, not four. */
const sources = {
  name: 'sources',
  resolveId (name, importer) {
    if (!name.startsWith('.')) return null
    const path = join(dirname(importer), name)
    return [`${path}.ts`, join(path, 'index.ts')].find(existsSync)
  },
  load (id) {
    return id === sourceOf('lib/dashboard/assets') ? assetsText() : null
  },
  transform (text, id) {
    const { outputText } = ts.transpileModule(text, { fileName: id, compilerOptions: { module: ts.ModuleKind.Preserve, target: ts.ScriptTarget.ES2022, removeComments: true } })
    return { code: transformSync(outputText, { charset: 'utf8' }).code, map: null }
  }
}

async function buildJavaScript () {
  const bundle = await rollup({
    input: Object.fromEntries([...paths, 'lib/threads/worker'].map(path => [path, sourceOf(path)])),
    external: id => !id.startsWith('.') && !isAbsolute(id),
    treeshake: 'safest',
    plugins: [sources],
    // Two entries have types alone.
    onwarn (warning) { if (warning.code !== 'EMPTY_BUNDLE') throw new Error(warning.message) }
  })
  await bundle.write({
    dir: 'dist',
    format: 'cjs',
    exports: 'named',
    interop: 'auto',
    freeze: false,
    hoistTransitiveImports: false,
    generatedCode: { preset: 'es2015', symbols: false },
    manualChunks: chunkOf,
    entryFileNames: '[name].js',
    chunkFileNames: ({ name }) => ALONE.includes(name) ? '[name].js' : '[name]/index.js'
  })
}

function removeUnreachableDeclarations () {
  const program = ts.createProgram(paths.map(path => join(__dirname, 'dist', `${path}.d.ts`)), { module: ts.ModuleKind.Node16, types: [] })
  const reached = new Set(program.getSourceFiles().map(({ fileName }) => relative('', fileName)))
  for (const file of readdirSync('dist', { recursive: true })) {
    const path = join('dist', file)
    if (file.endsWith('.d.ts') && !reached.has(path)) rmSync(path)
  }
}

process.chdir(__dirname)
removeUnreachableDeclarations()
buildJavaScript()
