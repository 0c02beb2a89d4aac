import { readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'tap'
import { install, pack, root, run } from '../support/package'

// The commands of docs/bundlers.md, with the package as npm publishes it.

const SERVER = `
  import Fastify from 'fastify'
  import backgroundTasks, { defineTask } from 'fastify-background-tasks'

  async function main () {
    const app = Fastify()
    const greet = THREAD ? defineTask<string, string>('greet', new URL('./resize.mjs', import.meta.url)) : defineTask('greet', (name: string) => 'hello ' + name)
    await app.register(backgroundTasks, { tasks: [greet] })
    app.post('/', async request => ({ id: request.backgroundTasks.add(greet, 'Ada').id }))
    const { id } = (await app.inject({ method: 'POST', url: '/' })).json()
    await app.backgroundTasks.idle()
    console.log((await app.backgroundTasks.find(id))?.result)
    await app.close()
  }

  main()
`

const MODULE = `
  import { isMainThread } from 'node:worker_threads'
  export default (name: string) => (isMainThread ? 'not on a thread: ' : 'from a thread: ') + name
`

test('the commands of the page on bundlers', async t => {
  const page = await readFile(join(root, 'docs/bundlers.md'), 'utf8')
  const commands = [...page.matchAll(/^npx esbuild .*$/gm)].map(([command]) => command)
  t.equal(commands.length, 3)
  const installed = await pack(t)
  for (const command of commands) {
    const threads = command.includes('--external')
    const folder = await install(t, installed, ['piscina'])
    await writeFile(join(folder, 'server.ts'), SERVER.replace('THREAD', String(threads)))
    await writeFile(join(folder, 'resize.ts'), MODULE)
    await symlink(join(root, 'node_modules/esbuild'), join(folder, 'node_modules/esbuild'))
    await run('sh', ['-c', command.replace('npx esbuild', 'node_modules/esbuild/bin/esbuild')], folder)
    const [, output = 'out/server.mjs'] = /--outfile=(\S+)/.exec(command) ?? []
    t.equal(await run(process.execPath, [output], folder), threads ? 'from a thread: Ada\n' : 'hello Ada\n', command)
  }
})
