import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import { NEVER_MS, until } from './until'
import { noRabbit, noRedis } from './services'

/* Celery itself, of the machine's own Python. */

/** Another Python may come first on the path, without Debian's packages. */
const PYTHON = '/usr/bin/python3'

/** Why a test that needs Celery cannot run, or `false`. */
export const noCelery: string | false = process.env.TEST_SERVERS === 'none' || !hasCelery()
  ? 'there is no Celery on this machine: install it (Debian: python3-celery, python3-redis)'
  : noRabbit || noRedis

function hasCelery (): boolean {
  try {
    execFileSync(PYTHON, ['-c', 'import celery, redis'], { stdio: 'pipe' })
    return true
  } catch {
    return false
  }
}

/** The servers' addresses for a program of Celery. */
export interface Servers { broker: string, results: string }

function settings ({ broker, results }: Servers) {
  return { cwd: __dirname, env: { ...process.env, NODE_OPTIONS: '', BROKER: broker, RESULTS: results, PYTHONDONTWRITEBYTECODE: '1' } }
}

/** The value of an expression of Python, in `celery_tasks.py`. */
export async function python<Value> (servers: Servers, expression: string): Promise<Value> {
  const { stdout } = await promisify(execFile)(PYTHON, ['celery_tasks.py', expression], { ...settings(servers), maxBuffer: 2 ** 24, timeout: NEVER_MS })
  return JSON.parse(stdout) as Value
}

/** A Celery worker that runs the tasks of `celery_tasks.py`. */
export async function celeryWorker (t: Test, servers: Servers, args: string[] = []): Promise<{ child: ChildProcess, output: () => string }> {
  return startWorker(t, 'celery_tasks', settings(servers), args)
}

/** A Celery worker, once it takes tasks. */
export async function startWorker (t: Test, app: string, options: { cwd: string, env: NodeJS.ProcessEnv }, args: string[] = []): Promise<{ child: ChildProcess, output: () => string }> {
  const child = spawn(PYTHON, ['-m', 'celery', '-A', app, 'worker', '--pool', 'solo', '--loglevel', 'INFO', '--without-mingle', '--without-gossip', ...args], { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', text => { output += text })
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  })
  await until('the Celery worker', () => {
    if (child.exitCode !== null) throw new Error(`Celery has ended: ${output}`)
    return output.includes(' ready.')
  })
  return { child, output: () => output }
}
