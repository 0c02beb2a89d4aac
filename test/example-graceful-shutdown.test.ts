import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'tap'
import type { LogLine } from './support/server'

test('SIGTERM: every task, running, pending, waiting for a retry, not added yet, or endless, is accounted for', async t => {
  const child = spawn(process.execPath, [
    // What lets this process load TypeScript.
    ...process.execArgv.filter(argument => argument.includes('@tapjs/typescript')),
    join(__dirname, '../examples/graceful-shutdown.ts')
  ], { env: { ...process.env, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const exited = once(child, 'exit')
  const log: LogLine[] = []
  const lines = createInterface(child.stdout)
  lines.on('line', line => { log.push(JSON.parse(line)) })
  const logged = async (matches: (line: LogLine) => boolean, count = 1) => {
    while (log.filter(matches).length < count) await once(lines, 'line')
    return log.find(matches)!
  }

  const listening = await logged(line => line.msg.startsWith('Server listening'))
  const url = listening.msg.slice(listening.msg.indexOf('http'))
  const post = async (path: string) => (await fetch(url + path, { method: 'POST', headers: { connection: 'close' } })).json()

  // Running, for less than the time that closing takes.
  t.same(await post('/work/300'), { accepted: true })
  t.same(await post('/work/300'), { accepted: true })
  // Waiting for its second attempt.
  t.same(await post('/retry/300'), { accepted: true })
  // Running for longer than closing waits.
  t.same(await post('/work/60000'), { accepted: true })
  // Not answered yet, and no task added, when the signal comes.
  const inFlight = post('/slow-answer/500')
  await logged(line => line.msg === 'incoming request', 5)
  child.kill('SIGTERM')
  t.same(await inFlight, { accepted: true }, 'a request in flight is answered')

  const [code] = await exited
  t.equal(code, 0)
  const unfinished = log.filter(line => line.msg === 'background task did not end before the application closed')
  t.match(unfinished, [{ level: 50, reqId: 'req-4', task: { id: /^[0-9a-f-]{36}$/, state: 'running' } }])
  t.equal(unfinished.length, 1)
  t.match(log.at(-1), {
    msg: 'background tasks drained',
    backgroundTasks: { accepted: 5, completed: 4, failed: 1, retried: 1, abandoned: 1, collecting: 0, pending: 0, running: 0 }
  })
})
