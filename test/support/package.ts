import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'
import { promisify } from 'node:util'
import type { Test } from 'tap'

/*
 * The package as npm publishes it, and projects that have installed it: packed, and unpacked again where none of this
 * project's own packages can be found.
 */

export const root = resolve(__dirname, '../..')

/** Runs a program without what tap hands on to each process, which would slow it down, and would load packages in it. */
export async function run (command: string, args: string[], cwd: string): Promise<string> {
  // A tap inside would take the settings of this one, and write over its results.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== 'NODE_OPTIONS' && !/^_?TAP/.test(name)))
  const { stdout } = await promisify(execFile)(command, args, { cwd, env })
  return stdout
}

interface Manifest {
  name: string
  exports: Record<string, unknown>
  dependencies: Record<string, string>
  peerDependencies: Record<string, string>
  peerDependenciesMeta: Record<string, { optional: boolean }>
}

export interface Package {
  /** Where it is unpacked. */
  folder: string
  /** All its files, as paths within it, sorted. */
  files: string[]
  /** The size of all of them, as npm tells it. */
  bytes: number
  manifest: Manifest
  /** The keys of `exports` that can be imported as code. */
  entries: string[]
  /** The packages that a user may leave out. */
  optionalPeers: string[]
}

/** Files that a copy of the project lacks. */
const LEFT_OUT = ['.cache', '.git', '.tap', 'dist', 'node_modules']

/** A copy of the project is packed: the build of another test would otherwise be removed under its feet. */
export async function pack (t: Test): Promise<Package> {
  const temporary = await temporaryFolder(t)
  const project = join(temporary, 'project')
  await cp(root, project, { recursive: true, filter: source => !LEFT_OUT.includes(basename(source)) || source === root })
  await symlink(join(root, 'node_modules'), join(project, 'node_modules'))
  const [{ filename, unpackedSize }] = JSON.parse(await run('npm', ['pack', '--silent', '--json', '--pack-destination', temporary], project)) as [{ filename: string, unpackedSize: number }]
  await run('tar', ['-xzf', filename], temporary)

  const folder = join(temporary, 'package')
  const manifest: Manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
  const files = (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter(entry => entry.isFile())
    .map(entry => relative(folder, join(entry.parentPath, entry.name)).split(sep).join('/'))
  return {
    folder,
    files: files.sort(),
    bytes: unpackedSize,
    manifest,
    entries: Object.keys(manifest.exports).filter(entry => !entry.endsWith('.json')),
    optionalPeers: Object.keys(manifest.peerDependenciesMeta).filter(name => manifest.peerDependenciesMeta[name]?.optional)
  }
}

/** The name of an entry of `exports` in a user's import. */
export function specifier ({ manifest }: Package, entry: string): string {
  return manifest.name + entry.slice(1)
}

/**
 * The folder of a project that has installed the package, what it depends on, and of its optional peers only these.
 * @param nodeTypes the package that is taken for `@types/node`
 */
export async function install (t: Test, installed: Package, peers: readonly string[] = [], nodeTypes = '@types/node'): Promise<string> {
  const folder = await temporaryFolder(t)
  const { manifest, optionalPeers } = installed
  await cp(installed.folder, join(folder, 'node_modules', manifest.name), { recursive: true })
  const required = Object.keys(manifest.peerDependencies).filter(name => !optionalPeers.includes(name))
  const names = [...Object.keys(manifest.dependencies), ...required, ...peers]
  for (const [name, source] of [['@types/node', nodeTypes], ...names.map(name => [name, name])] as Array<[string, string]>) {
    const path = join(folder, 'node_modules', name)
    await mkdir(dirname(path), { recursive: true })
    await symlink(join(root, 'node_modules', source), path)
  }
  return folder
}

/** As a peer, but one that only says on the standard output that it has been loaded: `LOADED name`. */
export async function installTrap (folder: string, name: string): Promise<void> {
  const path = join(folder, 'node_modules', name)
  await mkdir(path, { recursive: true })
  await writeFile(join(path, 'package.json'), JSON.stringify({ name, version: '1.0.0', main: 'index.js' }))
  await writeFile(join(path, 'index.js'), `console.log('LOADED ${name}')\n`)
}

/** Runs a script in a project, and resolves with what it prints. */
export async function runScript (folder: string, name: string, text: string): Promise<string> {
  await writeFile(join(folder, name), text)
  return run(process.execPath, [name], folder)
}

/** Outside of this project, whose packages Node would find otherwise. */
async function temporaryFolder (t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'background-tasks-package-'))
  t.teardown(() => rm(folder, { recursive: true }))
  return folder
}
