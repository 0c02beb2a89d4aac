'use strict'

/*
 * node type-check.js PROJECTS: compiles the files of each project, [{ folder, mode, files }], and prints what is wrong
 * in each, [[message]]. A process of its own, because measuring coverage makes the compiler slow.
 *
 * Checked as by somebody who sets `skipLibCheck: false`, but of all declarations only those within the folder: what is
 * wrong in another package is not for this one to say.
 */

const { readFileSync } = require('node:fs')
const { join } = require('node:path')
const ts = require('typescript')

const COMMON = { target: ts.ScriptTarget.ES2022, lib: ['lib.es2023.d.ts'], types: ['node'], strict: true, noEmit: true, skipLibCheck: false }

const MODES = {
  node16: { module: ts.ModuleKind.Node16 },
  nodenext: { module: ts.ModuleKind.NodeNext },
  bundler: { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }
}

/** Parsed once for each way to resolve modules. */
const parsed = new Map()

function createProgram ({ folder, mode, files }) {
  const options = { ...COMMON, ...MODES[mode], typeRoots: [join(folder, 'node_modules/@types')] }
  const host = ts.createCompilerHost(options)
  const { getSourceFile } = host
  host.getSourceFile = (name, ...args) => {
    const key = `${mode} ${name}`
    if (!parsed.has(key)) parsed.set(key, getSourceFile(name, ...args))
    return parsed.get(key)
  }
  return ts.createProgram(files, options, host)
}

function problems (project) {
  const { folder } = project
  const program = createProgram(project)
  const own = program.getSourceFiles().filter(({ fileName }) => fileName.startsWith(folder))
  const diagnostics = [
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...own.flatMap(file => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
  ]
  return diagnostics.map(({ file, messageText }) => `${file?.fileName.slice(folder.length) ?? ''} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)
}

console.log(JSON.stringify(JSON.parse(readFileSync(process.argv[2], 'utf8')).map(problems)))
