import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import Module from 'node:module'
import { join, resolve } from 'node:path'
import workerThreads from 'node:worker_threads'
import type { Test } from 'tap'
import { ModuleKind, ScriptTarget, transpileModule } from 'typescript'

/*
 * The loader of TypeScript does not reach into worker threads: there, the pool is given the JavaScript that a build
 * would have made of the files that it loads.
 */

const root = resolve(__dirname, '..', '..')

/** Compiles sources of the package into a folder. */
export function compile (folder: string, files: string[]): void {
  for (const file of files) {
    const { outputText } = transpileModule(readFileSync(join(root, file), 'utf8'), {
      compilerOptions: { module: ModuleKind.Node16, target: ScriptTarget.ES2022, esModuleInterop: true },
      fileName: join(root, file)
    })
    const target = join(folder, file.replace(/\.ts$/, '.js'))
    mkdirSync(resolve(target, '..'), { recursive: true })
    writeFileSync(target, outputText)
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }')
}

/** The sources of the package. */
export const sources = ['index.ts', 'types/fastify.ts', ...readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts')).map(file => `lib/${file}`)]

mkdirSync(join(root, '.tap'), { recursive: true })
/** Where the JavaScript is that threads load. */
export const folder = mkdtempSync(join(root, '.tap', 'threads-'))
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
compile(folder, sources.filter(file => /^lib\/(threads|shared|task|observe\/propagation)/.test(file)))

const loader = Module as unknown as { _resolveFilename (name: string, parent?: { filename: string }, ...args: unknown[]): string }
const resolveFilename = loader._resolveFilename
loader._resolveFilename = function (name, parent, ...args) {
  const isWorker = name === './worker' && parent?.filename === join(root, 'lib', 'threads', 'pool.ts')
  return resolveFilename.call(this, isWorker ? join(folder, 'lib', 'threads', 'worker.js') : name, parent, ...args)
}

// Threads would load tap's loaders, to no effect but seconds of waiting.
const { Worker } = workerThreads
workerThreads.Worker = class extends Worker {
  constructor (file: string | URL, options: workerThreads.WorkerOptions) {
    super(file, { ...options, execArgv: [], env: { ...process.env, NODE_OPTIONS: '' } })
  }
}

const folders = new WeakMap<Test, string>()
let modules = 0

/** A module with the handler of a task: the path of a new file that has this text. */
export function moduleFile (t: Test, text: string, extension = 'mjs'): string {
  // A second `testdir` would remove what the first has made.
  if (!folders.has(t)) folders.set(t, t.testdir({}))
  const file = join(folders.get(t) as string, `task-${++modules}.${extension}`)
  writeFileSync(file, text)
  return file
}

/** A module that no Node loads without help, nor tap's loader: types are not stripped in `node_modules`. */
export function typeScriptFile (t: Test): string {
  const folder = join(moduleFile(t, ''), '..', 'node_modules', 'package')
  mkdirSync(folder, { recursive: true })
  const file = join(folder, 'task.ts')
  writeFileSync(file, 'export default (n: number): number => n\n')
  return file
}
