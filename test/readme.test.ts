import { readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import { until } from './support/until'

const root = resolve(__dirname, '..')

/** Runs a module of the examples as it stands, but on the sources and a free port, in a folder of its own. */
async function run (t: Test, name: string) {
  const source = await readFile(join(root, 'examples', name), 'utf8')
  const index = join(root, 'index.ts')
  const isCommonJs = name.endsWith('.cjs')
  const folder = t.testdir({
    // Node finds the named exports of a CommonJS module in its JavaScript only.
    'index.mjs': `import plugin from '${pathToFileURL(index).href}'\nexport default plugin\nexport const { defineTask } = plugin\n`,
    [name]: source
      .replace("'fastify-background-tasks'", isCommonJs ? `'${index}'` : "'./index.mjs'")
      .replace('logger: true', 'logger: false')
      .replace('port: 3000', 'port: 0') + (isCommonJs ? '\nmodule.exports = { app }\n' : '\nexport { app }\n')
  })
  t.chdir(folder)
  const { app } = await import(pathToFileURL(join(folder, name)).href) as { app: FastifyInstance }
  t.teardown(() => app.close())
  // The CommonJS module does not wait for it.
  await until('it listens', () => app.server.listening)
  return { app, url: `http://localhost:${(app.server.address() as AddressInfo).port}`, folder }
}

for (const [name, language] of [['quick-start.mjs', 'js'], ['quick-start.cjs', 'js'], ['quick-start.mts', 'ts']] as const) {
  test(`README shows ${name} as a whole, and it runs`, async t => {
    const readme = await readFile(join(root, 'README.md'), 'utf8')
    t.ok(readme.includes(`\`\`\`${language}\n${await readFile(join(root, 'examples', name), 'utf8')}\`\`\`\n`))
    const { app, url, folder } = await run(t, name)
    const response = await fetch(`${url}/send-notification/ada@example.com`, { method: 'POST' })
    t.same(await response.json(), { message: 'Notification sent in the background' })
    await app.backgroundTasks.idle()
    t.equal(await readFile(join(folder, 'log.txt'), 'utf8'), 'notification for ada@example.com: some notification\n')
  })
}

test('README has at most 1,500 words', async t => {
  const words = (await readFile(join(root, 'README.md'), 'utf8')).split(/\s+/).length
  t.ok(words <= 1_500, `${words} words`)
})

test('the defined task runs, and its state can be asked for', async t => {
  const { app, url } = await run(t, 'defined-task.mts')
  const response = await fetch(`${url}/receipts`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ order: '42', email: 'ada@example.com' })
  })
  t.equal(response.status, 202)
  const { task } = await response.json() as { task: string }
  await app.backgroundTasks.idle()
  t.same(await (await fetch(`${url}/receipts/${task}`)).json(), { state: 'completed' })
  t.same(await (await fetch(`${url}/receipts/unknown`)).json(), { state: 'unknown' })
})
