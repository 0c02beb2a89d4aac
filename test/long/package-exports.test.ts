import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'tap'
import { install, installTrap, pack, runScript, specifier, type Package } from '../support/package'
import { SURFACE } from '../support/surface'

// How Node shows a CommonJS module to those who import it, beside its own names.
const INTEROP = ['__esModule', 'default', 'module.exports']

const USE = `
  const assert = require('node:assert/strict')
  module.exports = async function use (plugin) {
    const app = require('fastify')()
    await app.register(plugin)
    const done = []
    app.get('/', async request => {
      request.backgroundTasks.add(text => { done.push(text) }, 'done')
      return 'answer'
    })
    assert.equal((await app.inject('/')).body, 'answer')
    await app.backgroundTasks.idle()
    assert.deepEqual(done, ['done'])
    await app.close()
  }
`

function entriesWithout (installed: Package, missing: readonly string[]): string[] {
  return installed.entries.filter(entry => !SURFACE[entry]?.needs?.some(name => missing.includes(name)))
}

test('the package, installed', async t => {
  const installed = await pack(t)
  const { entries, optionalPeers } = installed

  t.test('the entries and the names they export are these', async t => {
    t.same([...entries].sort(), Object.keys(SURFACE).sort())
    const folder = await install(t, installed, optionalPeers)
    for (const entry of entries) {
      const name = JSON.stringify(specifier(installed, entry))
      const required = JSON.parse(await runScript(folder, 'names.cjs', `console.log(JSON.stringify(Object.keys(require(${name}))))`))
      const imported = JSON.parse(await runScript(folder, 'names.mjs', `console.log(JSON.stringify(Object.keys(await import(${name}))))`))
      const own = (names: string[]) => names.filter(name => !INTEROP.includes(name)).sort()
      t.same(own(required), SURFACE[entry]?.values, `require(${name})`)
      t.same(own(imported), SURFACE[entry]?.values, `import(${name})`)
    }
  })

  t.test('it works however it is loaded, without any optional package', async t => {
    const folder = await install(t, installed)
    await runScript(folder, 'use.cjs', USE)
    const name = JSON.stringify(specifier(installed, '.'))
    t.equal(await runScript(folder, 'load.cjs', `
      const assert = require('node:assert/strict')
      const plugin = require(${name})
      assert.equal(plugin.default, plugin.fastifyBackgroundTasks)
      assert.equal(typeof plugin, 'function')
      const { defineTask, UnrecoverableError } = plugin
      assert.equal(defineTask('name', () => {}).name, 'name')
      assert.ok(new UnrecoverableError('x') instanceof Error)
      const use = require('./use.cjs')
      use(plugin).then(() => use(plugin.default)).then(() => console.log('ok'))
    `), 'ok\n')
    t.equal(await runScript(folder, 'load.mjs', `
      import assert from 'node:assert/strict'
      import plugin, { defineTask, errorCodes, fastifyBackgroundTasks, UnrecoverableError } from ${name}
      import use from './use.cjs'
      assert.equal(plugin, fastifyBackgroundTasks)
      assert.equal(plugin, (await import(${name})).default)
      assert.equal(defineTask('name', () => {}).name, 'name')
      assert.ok(new UnrecoverableError('x') instanceof Error)
      assert.equal(new errorCodes.FST_BGT_CLOSED().statusCode, 503)
      await use(plugin)
      await use(fastifyBackgroundTasks)
      console.log('ok')
    `), 'ok\n')
  })

  t.test('all entries have the same errors', async t => {
    const folder = await install(t, installed, optionalPeers)
    t.equal(await runScript(folder, 'same.cjs', `
      const assert = require('node:assert/strict')
      const { errorCodes } = require('${specifier(installed, '.')}')
      for (const name of ['bullmq', 'celery', 'sqlite']) {
        const backend = require('${specifier(installed, '.')}/' + name)[name]
        assert.throws(() => backend({ colour: 'red' }), errorCodes.FST_BGT_UNKNOWN_OPTION)
      }
      console.log('ok')
    `), 'ok\n')
  })

  t.test('a stack leads to JavaScript that can be read', async t => {
    const folder = await install(t, installed)
    const stack = await runScript(folder, 'stack.cjs', `
      try { require('${specifier(installed, '.')}').defineTask() } catch (error) { console.log(error.stack) }
    `)
    const [, file, line] = /at \S*defineTask \((.+):(\d+):\d+\)/.exec(stack) ?? []
    t.ok(file?.endsWith(join(installed.manifest.name, 'dist', 'lib', 'task', 'index.js')), stack)
    t.match((await readFile(file as string, 'utf8')).split('\n')[Number(line) - 1], /throw new lib_shared\.FST_BGT_INVALID_TASK_OPTION\("name", "a non-empty string"/)
  })

  t.test('its dashboard knows the folder of the plugin, whose frames it folds', async t => {
    const folder = await install(t, installed)
    t.match(await runScript(folder, 'folder.mjs', `
      import Fastify from 'fastify'
      import backgroundTasks from '${specifier(installed, '.')}'
      import { dashboard } from '${specifier(installed, './dashboard')}'
      const app = Fastify()
      await app.register(backgroundTasks)
      await app.register(dashboard, { prefix: '/board' })
      app.get('/fail', async request => request.backgroundTasks.add(() => { throw new Error('no') }).id)
      const { body } = await app.inject('/fail')
      await app.backgroundTasks.idle()
      const page = await app.inject({ url: '/board/tasks/' + body, headers: { 'x-background-tasks-dashboard': '1' } })
      console.log(page.json().task.folder)
      await app.close()
    `), /[\\/]fastify-background-tasks[\\/]dist[\\/]lib[\\/]\n$/)
  })

  t.test('no entry loads an optional package by being loaded, nor does the plugin by being used', async t => {
    const folder = await install(t, installed)
    for (const name of optionalPeers) await installTrap(folder, name)
    const [trapped] = optionalPeers
    t.equal(await runScript(folder, 'trap.cjs', `require('${trapped}')`), `LOADED ${trapped}\n`, 'a trap is heard')
    await runScript(folder, 'use.cjs', USE)
    t.equal(await runScript(folder, 'use-main.cjs', `require('./use.cjs')(require('${specifier(installed, '.')}'))`), '')
    for (const entry of entriesWithout(installed, optionalPeers)) {
      t.equal(await runScript(folder, 'load.cjs', `require('${specifier(installed, entry)}')`), '', entry)
    }
  })
})
