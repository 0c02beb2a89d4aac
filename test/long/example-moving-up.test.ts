import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test, type Test } from 'tap'
import { until } from '../support/until'
import { noPostgres, noRedis, postgres, redis } from '../support/services'
import { newFile, noSqlite } from '../support/sqlite'
import type { LogLine } from '../support/server'

/** Starts the application as a user does. */
async function check (t: Test, tasks: string | undefined): Promise<void> {
  const { TASKS, ...env } = process.env
  const child = spawn(process.execPath, [
    // The loader of TypeScript.
    ...process.execArgv.filter(argument => argument.includes('@tapjs/typescript')),
    join(__dirname, '../../examples/moving-up.ts')
  ], { env: { ...env, PORT: '0', ...tasks === undefined ? {} : { TASKS: tasks } }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const exited = once(child, 'close')
  const log: LogLine[] = []
  createInterface(child.stdout).on('line', line => { log.push(JSON.parse(line)) })
  const { msg } = await until('it listens', () => log.find(({ msg }) => msg.startsWith('Server listening')))
  const url = msg.slice(msg.indexOf('http'))

  const response = await fetch(`${url}/users`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', connection: 'close' },
    body: '{"email":"ada@example.com"}'
  })
  t.equal(response.status, 202)
  const location = response.headers.get('location') as string
  t.same(await until('the result', async () => {
    const task = await (await fetch(url + location, { headers: { connection: 'close' } })).json() as { state: string }
    return task.state === 'completed' && task
  }), { state: 'completed', result: { sentTo: 'ada@example.com' } })
  t.match(await until('its line in the log', () => log.find(({ msg }) => msg.startsWith('a welcome'))), { msg: 'a welcome for ada@example.com, attempt 1', reqId: 'req-1' })
  child.kill('SIGTERM')
  t.same(await exited, [0, null])
}

test('moving up: in the process', t => check(t, undefined))

test('moving up: SQLite', { skip: noSqlite }, t => check(t, newFile(t)))

test('moving up: Redis', { skip: noRedis }, async t => check(t, (await redis(t)).url))

test('moving up: Postgres', { skip: noPostgres }, async t => check(t, (await postgres(t)).url))
