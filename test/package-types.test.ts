import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import ts from 'typescript'
import { install, pack, specifier, type Package } from './support/package'
import { SURFACE } from './support/surface'

// Checked as by somebody who sets `skipLibCheck: false`, but of all declarations only those of this package: what is
// wrong in another one is not for it to say.

const COMMON: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022, lib: ['lib.es2023.d.ts'], types: ['node'], strict: true, noEmit: true, skipLibCheck: false
}

const MODES: Record<string, { options: ts.CompilerOptions, extensions: string[] }> = {
  node16: { options: { module: ts.ModuleKind.Node16 }, extensions: ['cts', 'mts'] },
  nodenext: { options: { module: ts.ModuleKind.NodeNext }, extensions: ['cts', 'mts'] },
  bundler: { options: { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }, extensions: ['ts'] }
}

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

/** Parsed once for each way to resolve modules. */
const parsed = new Map<string, ts.SourceFile | undefined>()

function createProgram (files: string[], mode: string): ts.Program {
  const options = { ...COMMON, ...MODES[mode]?.options }
  const host = ts.createCompilerHost(options)
  const { getSourceFile } = host
  host.getSourceFile = (name, ...args) => {
    const key = `${mode} ${name}`
    if (!parsed.has(key)) parsed.set(key, getSourceFile(name, ...args))
    return parsed.get(key)
  }
  return ts.createProgram(files, options, host)
}

function problems (program: ts.Program, folder: string): string[] {
  const own = program.getSourceFiles().filter(({ fileName }) => fileName.startsWith(folder))
  const diagnostics = [
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...own.flatMap(file => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
  ]
  return diagnostics.map(({ file, messageText }) => `${file?.fileName.slice(folder.length) ?? ''} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)
}

async function check (t: Test, installed: Package, peers: string[], mode: string): Promise<void> {
  const folder = await install(t, installed, peers)
  const entries = installed.entries.filter(entry => SURFACE[entry]?.needs?.every(name => peers.includes(name)) ?? true)
  const name = specifier(installed, '.')
  const files: string[] = []
  for (const extension of MODES[mode]?.extensions ?? []) {
    const file = join(folder, `consumer.${extension}`)
    await writeFile(file, consumer(name, entries.map(entry => specifier(installed, entry))))
    files.push(file)
    if (extension === 'cts') {
      files.push(join(folder, 'required.cts'))
      await writeFile(join(folder, 'required.cts'), REQUIRED_FORM(name))
    }
  }
  const program = createProgram(files, mode)
  t.ok(program.getSourceFiles().some(({ fileName }) => fileName.endsWith(`${name}/dist/index.d.ts`)), `the declarations are found, with ${entries.join(' ')}`)
  t.same(problems(program, folder), [], `module ${mode}, with ${peers.join(', ') || 'no optional package'}`)
}

test('the declarations', async t => {
  const installed = await pack(t)
  const { entries, optionalPeers } = installed

  for (const mode of Object.keys(MODES)) {
    t.test(`${mode}, with all optional packages and with none`, async t => {
      await check(t, installed, optionalPeers, mode)
      await check(t, installed, [], mode)
    })
  }

  t.test('nodenext, without one optional package', async t => {
    for (const missing of optionalPeers) await check(t, installed, optionalPeers.filter(name => name !== missing), 'nodenext')
  })

  t.test('a mistake is seen', async t => {
    const folder = await install(t, installed)
    const file = join(folder, 'mistake.mts')
    await writeFile(file, `import '${specifier(installed, '.')}'\nimport type { TaskHandel } from '${specifier(installed, '.')}'\nexport type T = TaskHandel\n`)
    t.match(problems(createProgram([file], 'nodenext'), folder), [/TaskHandel/])
  })

  t.test('the types that each entry exports are these', async t => {
    const folder = await install(t, installed, optionalPeers)
    const file = join(folder, 'entries.mts')
    await writeFile(file, entries.map(entry => `import type {} from '${specifier(installed, entry)}'\n`).join(''))
    const program = createProgram([file], 'nodenext')
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
