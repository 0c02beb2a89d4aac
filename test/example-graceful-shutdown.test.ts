import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'tap'
import type { Stats } from '../index'
import type { LogLine } from './support/server'
import { until } from './support/until'

test('SIGTERM: every task, running, pending, waiting for a retry, not added yet, or endless, is accounted for', async t => {
  const child = spawn(process.execPath, [
    // The loader of TypeScript.
    ...process.execArgv.filter(argument => argument.includes('@tapjs/typescript')),
    join(__dirname, '../examples/graceful-shutdown.ts')
  ], { env: { ...process.env, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  // Not 'exit', which does not wait for the last lines of its log.
  const exited = once(child, 'close')
  const log: LogLine[] = []
  const lines = createInterface(child.stdout)
  const read = once(lines, 'close')
  lines.on('line', line => { log.push(JSON.parse(line)) })
  const logged = (what: string, matches: (line: LogLine) => boolean) => until(`the log: ${what}`, () => log.find(matches))

  const listening = await logged('it listens', line => line.msg.startsWith('Server listening'))
  const url = listening.msg.slice(listening.msg.indexOf('http'))
  const headers = { connection: 'close' }
  const post = async (path: string) => (await fetch(url + path, { method: 'POST', headers })).json()
  const stats = async () => (await fetch(`${url}/stats`, { headers })).json() as Promise<Stats>

  // The request's id is in the log.
  const idOf = (path: string) => log.find(line => (line.req as { url: string } | undefined)?.url === path)?.reqId

  await Promise.all([
    // One runs, four are in line behind it, and all of them end in the time that closing takes.
    post('/tasks/5/200'),
    // One runs for longer than that, and one is in line behind it.
    post('/tasks/2/60000'),
    // One waits for a second attempt that comes in time, one for an attempt that does not.
    post('/retry/1000'),
    post('/retry/60000')
  ])
  await until('both are to be tried again', async () => (await stats()).retried === 2)
  // Not answered yet, and no task added, when the signal comes.
  const inFlight = post('/slow-answer/500')
  await logged('the request', line => (line.req as { url: string } | undefined)?.url === '/slow-answer/500')
  const before = await stats()
  t.match(before, { accepted: 9, failed: 0, retried: 2 })
  t.ok(before.running >= 1 && before.pending >= 2, JSON.stringify(before))

  child.kill('SIGTERM')
  await logged('it closes', line => line.msg === 'SIGTERM received, server closing')
  t.same(await inFlight, { accepted: true }, 'a request in flight is answered')
  const [code] = await exited
  await read
  t.equal(code, 0)

  const unfinished = log.filter(line => line.msg === 'background task did not end before the application closed')
  t.same(unfinished.map(({ level, reqId, task }) => `${level} ${reqId} ${task!.name} ${task!.state} ${task!.attempt}`).sort(), [
    `50 ${idOf('/retry/60000')} flaky pending 1`,
    `50 ${idOf('/tasks/2/60000')} work pending 0`,
    `50 ${idOf('/tasks/2/60000')} work running 1`
  ].sort())
  for (const { task } of unfinished) t.match(task!.id, /^[0-9a-f-]{36}$/)
  t.equal(log.filter(({ msg }) => msg.startsWith('background task')).at(-1)!.msg, 'background tasks drained', 'the account comes last')
  t.match(log.filter(line => line.msg === 'background tasks drained'), [{
    backgroundTasks: {
      accepted: 10, completed: 7, failed: 1, dropped: 2, retried: 2, abandoned: 1, collecting: 0, pending: 0, running: 0
    }
  }])
})
