'use strict'

/*
 * A process of its own that compiles each mutant, or says that it does not compile. Rules of the linter's kind (unused names, unreachable code) are not
 * asked: they refuse the text of a mutant, and not what it does.
 */

const { join, resolve } = require('node:path')
const ts = require('typescript')
const { compiled } = require('./compiled')

const root = process.argv[2]
const names = process.argv.slice(3).map(file => join(root, file))

const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
Object.assign(options, { noEmit: true, noUnusedLocals: false, noUnusedParameters: false, allowUnreachableCode: true, declaration: false, declarationMap: false, sourceMap: false })

const host = ts.createCompilerHost(options, true)
const read = host.getSourceFile
const files = new Map()
let changed = null

host.getSourceFile = (name, language, ...rest) => {
  if (changed !== null && resolve(name) === changed.name) return changed.source
  if (!files.has(name)) {
    const source = read.call(host, name, language, ...rest)
    if (source !== undefined) source.version = '1'
    files.set(name, source)
  }
  return files.get(name)
}

const base = ts.createSemanticDiagnosticsBuilderProgram(names, options, host)
// What is not asked now would be checked with each mutant.
while (base.getSemanticDiagnosticsOfNextAffectedFile() !== undefined);
let version = 1

function compiles (file, text) {
  const name = join(root, file)
  const { languageVersion, impliedNodeFormat } = files.get(name)
  const source = ts.createSourceFile(name, text, { languageVersion, impliedNodeFormat }, true)
  source.version = String(++version)
  if (source.parseDiagnostics.length !== 0) return false
  changed = { name, source }
  const program = ts.createSemanticDiagnosticsBuilderProgram(names, options, host, base)
  for (;;) {
    const next = program.getSemanticDiagnosticsOfNextAffectedFile()
    if (next === undefined) break
    if (next.result.length !== 0) return false
  }
  // Each process of a test would have to load the compiler to do it.
  compiled(join(root, '.cache/mutate/compiled'), text, name)
  return true
}

// The run may have ended meanwhile: then nobody waits for the answer.
process.on('disconnect', () => process.exit())
process.on('message', ({ id, file, text }) => process.send({ id, compiles: compiles(file, text) }, () => {}))
