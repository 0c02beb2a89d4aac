import { build } from 'esbuild'
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test, type Test } from 'tap'
import ts from 'typescript'
import { run } from './support/package'

const examples = resolve(__dirname, '../examples/nestjs')

/** The steps of each test: requests one after the other or at once, and a close. */
const PROGRAM = `
  const { build, Database, journal, Statistics } = require('./app.cjs')

  async function start (use) {
    journal.length = 0
    const app = await build()
    await app.listen(0, '127.0.0.1')
    const url = await app.getUrl()
    const fastify = app.getHttpAdapter().getInstance()

    async function signUp (email) {
      const response = await fetch(url + '/sign-ups', {
        method: 'POST', headers: { 'content-type': 'application/json', connection: 'close' }, body: JSON.stringify({ email })
      })
      await response.text()
      await fastify.backgroundTasks.idle()
      return response.status
    }

    const result = await use({ app, fastify, signUp })
    await app.close()
    return result
  }

  /** A task that ends when it is told to; and the journal has the time of Nest's first hook. */
  function watchClose (app, fastify, onDestroyed = () => {}) {
    let end
    const ended = new Promise(resolve => { end = resolve })
    Object.assign(app.get(Database), {
      onModuleDestroy () {
        journal.push('modules destroyed')
        onDestroyed()
      }
    })
    fastify.backgroundTasks.add(async () => {
      await ended
      journal.push('the task has ended')
    })
    return end
  }

  async function main () {
    const emails = Array.from({ length: 20 }, (_, index) => index + '@example.com')
    console.log(JSON.stringify({
      one: await start(async ({ app, signUp }) => ({ status: await signUp('ada@example.com'), completed: app.get(Statistics).completed, journal: [...journal] })),
      many: await start(async ({ signUp }) => ({ statuses: await Promise.all(emails.map(signUp)), journal: [...journal] })),
      exception: await start(async ({ fastify, signUp }) => {
        await signUp('ada@example.com')
        journal.length = 0
        return { status: await signUp('ada@example.com'), journal: [...journal], stats: fastify.backgroundTasks.stats() }
      }),
      close: await start(async ({ app, fastify }) => {
        const end = watchClose(app, fastify, () => { end() })
        await app.close()
        return [...journal]
      }),
      fastifyFirst: await start(async ({ app, fastify }) => {
        const end = watchClose(app, fastify)
        const closed = fastify.close()
        end()
        await closed
        await app.close()
        return [...journal]
      })
    }))
  }

  main()
`

/**
 * Runs it in a process of its own, because NestJS is an ES module with patterns in its exports, which the loader of the tests does not
 * read; and compiled with the example's own settings, because its decorators are not those of the rest of the project.
 */
async function results (t: Test) {
  const folder = t.testdir()
  const { config } = ts.readConfigFile(join(examples, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.convertCompilerOptionsFromJson({ ...config.compilerOptions, module: 'commonjs', target: 'es2022' }, examples)
  for (const name of ['background-tasks', 'app']) {
    const source = readFileSync(join(examples, `${name}.ts`), 'utf8').replaceAll("'../../index'", JSON.stringify(resolve(__dirname, '../index')))
    writeFileSync(join(folder, `${name}.js`), ts.transpileModule(source, { compilerOptions: options }).outputText)
  }
  await build({ entryPoints: [join(folder, 'app.js')], outfile: join(folder, 'app.cjs'), bundle: true, platform: 'node', packages: 'external' })
  writeFileSync(join(folder, 'program.cjs'), PROGRAM)
  return JSON.parse(await run(process.execPath, ['program.cjs'], folder))
}

test('the example of NestJS', async t => {
  const { one, many, exception, close, fastifyFirst } = await results(t)

  t.test('a request-scoped service and the controller add to the tasks of one request', async t => {
    t.equal(one.status, 201)
    t.same(one.journal, ['welcome, ada@example.com', 'ada@example.com has signed up'])
    t.equal(one.completed, 2, 'a singleton has the application\'s own tasks')
  })

  t.test('each request has a service, and tasks, of its own', async t => {
    const emails = Array.from({ length: 20 }, (_, index) => `${index}@example.com`)
    t.same(many.statuses, emails.map(() => 201))
    t.same(many.journal.sort(), emails.flatMap(email => [`${email} has signed up`, `welcome, ${email}`]).sort())
  })

  t.test('an exception drops the tasks that run on success, and starts those that run on failure', async t => {
    t.equal(exception.status, 409)
    t.same(exception.journal, ['ada@example.com was refused'])
    t.match(exception.stats, { completed: 3, dropped: 2 })
  })

  t.test('Nest destroys its modules before the tasks have ended, and shuts the application down after them', async t => {
    t.same(close, ['modules destroyed', 'the task has ended', 'database closed'])
  })

  t.test('where Fastify is closed first, the tasks end before Nest destroys its modules', async t => {
    t.same(fastifyFirst, ['the task has ended', 'modules destroyed', 'database closed'])
  })
})
