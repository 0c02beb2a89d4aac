import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { test, type Test } from 'tap'
import { build } from '../examples/upload'
import { listen } from './support/server'

async function start (t: Test, options: Parameters<typeof build>[0] = {}) {
  const folder = t.testdir({})
  const app = await build({ folder, ...options })
  t.teardown(() => app.close())
  const beforeReply: unknown[] = []
  app.addHook('onSend', async () => { beforeReply.push({ files: (await readdir(folder)).length, tasks: app.backgroundTasks.stats().collecting }) })
  const { url } = await listen(app)

  async function upload (content: string) {
    const body = new FormData()
    body.append('file', new Blob([content]), 'report.txt')
    return fetch(`${url}/files`, { method: 'POST', body })
  }

  return { app, url, folder, upload, beforeReply }
}

test('a file is answered with 202, read afterwards, and removed', async t => {
  const { app, url, folder, upload, beforeReply } = await start(t)
  const content = 'x'.repeat(200_000)
  const response = await upload(content)
  t.equal(response.status, 202)
  t.same(beforeReply, [{ files: 1, tasks: 1 }], 'saved before the reply, and not read yet')
  const location = response.headers.get('location') as string
  await app.backgroundTasks.idle()
  t.same(await (await fetch(url + location)).json(), {
    state: 'completed',
    result: { name: 'report.txt', size: content.length, sha256: createHash('sha256').update(content).digest('hex') }
  })
  t.same(await readdir(folder), [])
  t.equal((await fetch(`${url}/files/unknown`)).status, 404)
})

test('a file too large is refused, and leaves neither a task nor a file', async t => {
  const { app, folder, upload } = await start(t, { fileSize: 1_000 })
  t.equal((await upload('x'.repeat(1_001))).status, 413)
  t.equal(app.backgroundTasks.stats().accepted, 0)
  t.same(await readdir(folder), [])
})

test('a form without a file is refused', async t => {
  const { app, url } = await start(t)
  const body = new FormData()
  body.append('name', 'no file')
  t.equal((await fetch(`${url}/files`, { method: 'POST', body })).status, 400)
  t.equal(app.backgroundTasks.stats().accepted, 0)
})
