import type { FastifyInstance } from 'fastify'
import { readdirSync, readlinkSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { build } from '../examples/dependencies'
import { listen } from './support/server'

async function start (t: Test, prepare: (app: FastifyInstance, databaseFile: string) => void = () => {}) {
  const directory = t.testdir()
  const files = { logFile: join(directory, 'log.txt'), databaseFile: join(directory, 'queries.jsonl') }
  const app = await build(files)
  t.teardown(() => app.close())
  prepare(app, files.databaseFile)
  const { url } = await listen(app)

  async function post (path: string) {
    const response = await fetch(url + path, { method: 'POST' })
    return { status: response.status, body: await response.json() }
  }

  async function written () {
    await app.backgroundTasks.idle()
    return {
      log: await readFile(files.logFile, 'utf8').catch(() => ''),
      rows: await readFile(files.databaseFile, 'utf8').catch(() => '')
    }
  }

  return { post, written, ...files }
}

/** How often this process has a file open, where the system can tell. */
function timesOpen (file: string): number {
  const descriptors = '/proc/self/fd'
  return readdirSync(descriptors).filter(descriptor => {
    try {
      return readlinkSync(join(descriptors, descriptor)) === file
    } catch {
      return false
    }
  }).length
}

test('a service, the service under it and the handler add in this order, and the database is closed after them', async t => {
  const { post, written } = await start(t)
  t.same(await post('/send-notification/ada@example.com?q=fastify'), { status: 200, body: { message: 'Message sent' } })
  t.same(await written(), {
    log: [
      'found query: fastify',
      'remembered query: fastify',
      'message to ada@example.com',
      'database closed',
      ''
    ].join('\n'),
    rows: '{"query":"fastify"}\n'
  })
})

test('without a query no service is made and no database opened', async t => {
  const { post, written } = await start(t)
  t.same(await post('/send-notification/ada@example.com'), { status: 200, body: { message: 'Message sent' } })
  t.same(await written(), { log: 'message to ada@example.com\n', rows: '' })
})

test('each request has a database of its own', async t => {
  const { post, written } = await start(t)
  const queries = Array.from({ length: 20 }, (_, index) => `query ${index}`)
  await Promise.all(queries.map(query => post(`/send-notification/ada@example.com?q=${query}`)))
  const { log, rows } = await written()
  t.same(rows.trim().split('\n').map(row => JSON.parse(row).query).sort(), [...queries].sort())
  t.equal(log.match(/^database closed$/gm)!.length, queries.length)
})

test('the system has the file open while the tasks run, and no longer', { skip: process.platform !== 'linux' }, async t => {
  const open: number[] = []
  const { post, written, databaseFile } = await start(t, (app, databaseFile) => {
    app.addHook('onSend', async request => {
      request.backgroundTasks.add(() => { open.push(timesOpen(databaseFile)) })
    })
  })
  await post('/send-notification/ada@example.com?q=fastify')
  await written()
  t.same(open, [1], 'behind the last of the other tasks')
  t.equal(timesOpen(databaseFile), 0)
})
