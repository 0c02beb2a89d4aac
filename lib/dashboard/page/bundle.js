'use strict'

/*
 * Bundles the page: its sources, Preact and uPlot become one script and one style sheet. Both packages are needed only here.
 *
 * node lib/dashboard/page/bundle.js FOLDER writes them, as `assets`, into what the compiler has made of the sources in that folder.
 */

const { createHash } = require('node:crypto')
const { mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')
const { brotliCompressSync } = require('node:zlib')

const root = join(__dirname, '../../..')
const PACKAGES = ['preact', 'uplot']
const cache = join(root, '.cache/page')

/** Returns the text of both, from the cache unless a source has changed. */
exports.bundlePage = () => {
  const { version } = require('esbuild/package.json')
  const hash = createHash('sha1').update(version)
  const sources = readdirSync(__dirname, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
  for (const source of sources.sort()) hash.update(`\n${source}\n`).update(readFileSync(source))
  for (const name of PACKAGES) hash.update(require(join(root, 'node_modules', name, 'package.json')).version)
  const file = join(cache, `${hash.digest('hex')}.json`)
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    // It has not been made yet.
  }
  const bundle = build()
  mkdirSync(cache, { recursive: true })
  // Another process finds it whole or not at all.
  writeFileSync(`${file}.${process.pid}`, JSON.stringify(bundle))
  renameSync(`${file}.${process.pid}`, file)
  return bundle
}

function build () {
  const { outputFiles } = require('esbuild').buildSync({
    entryPoints: { page: join(__dirname, 'main.tsx') },
    outdir: cache,
    write: false,
    bundle: true,
    minify: true,
    format: 'iife',
    target: ['chrome109', 'firefox115', 'safari16'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    charset: 'utf8',
    banner: { js: `/*!\n${PACKAGES.map(licenceOf).join('\n\n')}\n*/` },
    tsconfig: join(__dirname, 'tsconfig.json')
  })
  const textOf = end => outputFiles.find(({ path }) => path.endsWith(end)).text
  return { SCRIPT: textOf('.js'), STYLE: textOf('.css') }
}

/** Licences of the bundled libraries. */
function licenceOf (name) {
  return `${name}\n\n${readFileSync(join(root, 'node_modules', name, 'LICENSE'), 'utf8').trim()}`
}

/** The text of `assets` for a build: both texts, compressed, in place of what makes them. Minified they cannot be read either, and take 113 kB. */
exports.assetsText = (declare = 'export const ') => {
  const unpack = "const unpack = text => require('node:zlib').brotliDecompressSync(Buffer.from(text, 'base64')).toString()\n"
  const pack = text => brotliCompressSync(text).toString('base64')
  return unpack + Object.entries(exports.bundlePage()).map(([name, text]) => `${declare}${name} = unpack('${pack(text)}')\n`).join('')
}

/** For esbuild, which is to bundle the sources of this package. */
exports.assetsPlugin = {
  name: 'dashboard-assets',
  setup ({ onLoad }) {
    onLoad({ filter: /lib[\\/]dashboard[\\/]assets\.ts$/ }, () => ({ contents: exports.assetsText(), loader: 'js' }))
  }
}

if (require.main === module) {
  writeFileSync(join(process.argv[2], 'lib/dashboard/assets.js'), `'use strict'\n${exports.assetsText('exports.')}`)
}
