import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { test } from 'tap'
import { until } from '../support/until'

const root = resolve(__dirname, '../..')

test('fastify start, with @fastify/autoload: at SIGTERM, what has been accepted is done before the process ends', async t => {
  // Compiled inside the project, for its packages to be found; the socket outside of it, because its path has to be short.
  const compiled = t.testdir({})
  const folder = await mkdtemp(join(tmpdir(), 'background-tasks-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const logFile = join(folder, 'log.txt')
  const socketPath = join(folder, 'socket')
  await promisify(execFile)(process.execPath, [require.resolve('typescript/bin/tsc'), '-p', 'tsconfig.examples.json', '--outDir', compiled], { cwd: root })

  // Each task takes longer than fastify-cli waits by default.
  const child = spawn(process.execPath, [
    require.resolve('fastify-cli/cli.js'), 'start', '-l', 'info', '-g', '10000', '-s', socketPath, join(compiled, 'examples/fastify-cli/app.js')
  ], { cwd: folder, env: { ...process.env, LOG_FILE: logFile, LATENCY: '1500' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const exited = once(child, 'close')
  const lines = createInterface(child.stdout)
  const log: string[] = []
  lines.on('line', line => { log.push(line) })
  await until('it listens', () => log.some(line => line.includes('Server listening')))

  const post = (path: string) => new Promise<{ status: number | undefined, body: string }>((resolve, reject) => {
    request({ socketPath, path, method: 'POST', headers: { connection: 'close' } }, async response => {
      let body = ''
      for await (const chunk of response) body += chunk
      resolve({ status: response.statusCode, body })
    }).on('error', reject).end()
  })
  const answers = await Promise.all(['ada', 'grace'].map(name => post(`/sign-ups/${name}@example.com`)))
  t.same(answers, Array(2).fill({ status: 202, body: '{"message":"Signed up"}' }))
  t.equal(await readFile(logFile, 'utf8').catch(() => ''), '', 'the answers come first')
  child.kill('SIGTERM')
  t.same(await exited, [0, null])
  t.same((await readFile(logFile, 'utf8')).trim().split('\n').sort(), ['welcome ada@example.com', 'welcome grace@example.com'])
})
