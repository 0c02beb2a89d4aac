import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import ts from 'typescript'
import { install, pack, root, run, specifier, type Package } from '../support/package'
import { SURFACE } from '../support/surface'

const EXTENSIONS: Record<string, string[]> = { node16: ['cts', 'mts'], nodenext: ['cts', 'mts'], bundler: ['ts'] }

function consumer (name: string, entries: string[]): string {
  return `
    import Fastify from 'fastify'
    import backgroundTasks, { defineTask, errorCodes, fastifyBackgroundTasks, UnrecoverableError } from '${name}'
    import type { BackgroundTasks, BackgroundTasksOptions, TaskContext, TaskHandle } from '${name}'
    ${entries.map((entry, index) => `import type * as entry${index} from '${entry}'\nexport type Entry${index} = typeof entry${index}`).join('\n')}

    const send = defineTask('send', async (mail: { to: string }, ctx: TaskContext) => {
      ctx.log.info(mail.to)
      if (mail.to === '') throw new UnrecoverableError('nobody')
    })
    const options: BackgroundTasksOptions = { tasks: [send], onError (error, task) { console.log(error, task.name) } }

    export async function build (): Promise<void> {
      const app = Fastify()
      await app.register(backgroundTasks, options)
      await app.register(fastifyBackgroundTasks)
      app.get('/', async request => {
        const tasks: BackgroundTasks = request.backgroundTasks
        const handle: TaskHandle = tasks.add(send, { to: 'ada@example.com' })
        // @ts-expect-error: the payload is checked
        tasks.add(send, { to: 1 })
        // @ts-expect-error: so are arguments
        tasks.add((count: number) => count, 'one')
        return handle.id
      })
      await app.backgroundTasks.idle()
      console.log(new errorCodes.FST_BGT_CLOSED().statusCode)
    }
  `
}

const REQUIRED_FORM = (name: string) => `
    import Fastify = require('fastify')
    import plugin = require('${name}')

    const options: plugin.BackgroundTasksOptions = { closeTimeout: 1 }
    Fastify().register(plugin, options)
    Fastify().register(plugin.default, options)
    export const send = plugin.defineTask('send', async () => {})
`

interface Project {
  folder: string
  mode: string
  files: string[]
  title: string
}

/** A project with these optional packages, which uses each entry that can do with them. */
async function project (t: Test, installed: Package, peers: string[], mode: string, nodeTypes?: string): Promise<Project> {
  const folder = await install(t, installed, peers, nodeTypes)
  const entries = installed.entries.filter(entry => SURFACE[entry]?.needs?.every(name => peers.includes(name)) ?? true)
  const name = specifier(installed, '.')
  const sources = Object.fromEntries((EXTENSIONS[mode] as string[]).map(extension => [
    `consumer.${extension}`, consumer(name, entries.map(entry => specifier(installed, entry)))
  ]))
  if (mode !== 'bundler') sources['required.cts'] = REQUIRED_FORM(name)
  return write({ folder, mode, title: `${mode}: ${entries.join(' ')}, with ${peers.join(', ') || 'no optional package'}` }, sources)
}

async function write (project: Omit<Project, 'files'>, sources: Record<string, string>): Promise<Project> {
  const files = Object.keys(sources).map(name => join(project.folder, name))
  await Promise.all(files.map((file, index) => writeFile(file, Object.values(sources)[index] as string)))
  return { ...project, files }
}

async function check (projects: Project[]): Promise<string[][]> {
  const list = join((projects[0] as Project).folder, 'projects.json')
  await writeFile(list, JSON.stringify(projects))
  return JSON.parse(await run(process.execPath, [join(__dirname, '../support/type-check.js'), list], root))
}

test('the declarations', async t => {
  const installed = await pack(t)
  const { entries, optionalPeers } = installed

  t.test('compile under each setting of modules, with all optional packages, with none, and without each', async t => {
    const wanted = [
      ...Object.keys(EXTENSIONS).flatMap(mode => [[mode, optionalPeers], [mode, []]] as Array<[string, string[]]>),
      ...optionalPeers.map(missing => ['nodenext', optionalPeers.filter(name => name !== missing)] as [string, string[]])
    ]
    const projects: Project[] = []
    for (const [mode, peers] of wanted) projects.push(await project(t, installed, peers, mode))
    const problems = await check(projects)
    t.equal(problems.length, 6 + optionalPeers.length)
    for (const [index, { title }] of projects.entries()) t.same(problems[index], [], title)
  })

  t.test('compile with the newest types of Node', async t => {
    t.same(await check([await project(t, installed, optionalPeers, 'nodenext', 'newest-types-node')]), [[]])
  })

  t.test('a mistake is seen, in code and in a declaration', async t => {
    const folder = await install(t, installed)
    const name = specifier(installed, '.')
    await appendFile(join(folder, 'node_modules', name, 'dist/index.d.ts'), '\ndeclare const wrong: Missing\n')
    const [problems] = await check([await write({ folder, mode: 'nodenext', title: '' }, {
      'mistake.mts': `import type { TaskHandel } from '${name}'\nexport type T = TaskHandel\n`
    })])
    t.match(problems?.sort(), [/mistake.mts .*TaskHandel/, /index.d.ts .*Missing/])
    t.equal(problems?.length, 2)
  })

  t.test('the types that each entry exports are these', async t => {
    const folder = await install(t, installed, optionalPeers)
    const file = join(folder, 'entries.mts')
    await writeFile(file, entries.map(entry => `import type {} from '${specifier(installed, entry)}'\n`).join(''))
    const program = ts.createProgram([file], { module: ts.ModuleKind.NodeNext, types: ['node'], strict: true, noEmit: true })
    const checker = program.getTypeChecker()
    const imports = program.getSourceFile(file)?.statements.filter(ts.isImportDeclaration) ?? []
    t.equal(imports.length, entries.length)
    for (const [index, entry] of entries.entries()) {
      const module = checker.getSymbolAtLocation((imports[index] as ts.ImportDeclaration).moduleSpecifier) as ts.Symbol
      const names = checker.getExportsOfModule(module)
        .map(symbol => symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol)
        .filter(symbol => symbol.flags & ts.SymbolFlags.Type && !(symbol.flags & ts.SymbolFlags.Value))
        .map(symbol => symbol.name)
      t.same(names.sort(), SURFACE[entry]?.types, entry)
    }
  })
})
