import { fork, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { dirname, join, resolve } from 'node:path'
import type { Test } from 'tap'
import { ModuleKind, ScriptTarget, transpileModule } from 'typescript'
import type { FaultOptions } from './fault-app'

/** The processes of one test, and what their tasks have noted. */
export class Faults {
  readonly queue = `faults-${randomUUID()}`
  readonly #t: Test
  readonly #journal: string
  readonly #program: string
  readonly #options: Omit<FaultOptions, 'worker'>
  readonly #children: ChildProcess[] = []

  constructor (t: Test, connection: string, more: { maxCrashes?: number, results?: string, orders?: string, every?: number } = {}) {
    this.#t = t
    const folder = t.testdir({})
    this.#journal = join(folder, 'journal.txt')
    this.#program = compile(folder)
    this.#options = { connection, queue: this.queue, journal: this.#journal, ...more }
  }

  /** Starts a process of the application, and waits until it listens. */
  async start (worker: FaultOptions['worker'], more: Pick<FaultOptions, 'clockAhead' | 'dies'> = {}): Promise<Process> {
    // Nor the hooks of the tests, which would take most of its time to start.
    const env = { ...process.env, NODE_OPTIONS: '' }
    const child = fork(this.#program, [JSON.stringify({ ...this.#options, ...more, worker })], { env, execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#children.push(child)
    this.#t.teardown(() => this.end())
    const port = await new Promise<number>((resolve, reject) => {
      child.once('message', resolve as (message: unknown) => void)
      child.once('exit', code => reject(new Error(`a process of the test ended with ${code}`)))
    })
    return new Process(child, port)
  }

  /** Ends all processes. To be called at a test's end: its folder cannot go while they write to it. */
  async end (): Promise<void> {
    await Promise.all(this.#children.map(child => end(child, 'SIGKILL')))
  }

  /** The lines of the journal: what, which, attempt, pid. */
  lines (): Array<{ what: string, n: number, attempt: number, pid: number }> {
    if (!existsSync(this.#journal)) return []
    // A line that a kill has cut off is none.
    return readFileSync(this.#journal, 'utf8').split('\n').slice(0, -1).map(line => {
      const [what, n, attempt, pid] = line.split(' ')
      return { what: what as string, n: Number(n), attempt: Number(attempt), pid: Number(pid) }
    })
  }

  /** How often each task has run to its end. */
  ran (): Map<number, number> {
    const times = new Map<number, number>()
    for (const { what, n } of this.lines()) if (what === 'ran') times.set(n, (times.get(n) ?? 0) + 1)
    return times
  }
}

export class Process {
  readonly pid: number
  readonly #child: ChildProcess
  readonly #port: number
  readonly #agent = new Agent({ keepAlive: true })

  constructor (child: ChildProcess, port: number) {
    this.#child = child
    this.pid = child.pid as number
    this.#port = port
  }

  get alive (): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** Resolves with the status and the body; rejects when the process is gone. */
  send (method: string, path: string): Promise<{ status: number, body: any }> {
    return new Promise((resolve, reject) => {
      request({ agent: this.#agent, port: this.#port, host: '127.0.0.1', method, path }, response => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (data: string) => { text += data })
        response.on('end', () => resolve({ status: response.statusCode as number, body: JSON.parse(text) }))
        response.on('error', reject)
      }).on('error', reject).end()
    })
  }

  async stop (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    await end(this.#child, signal)
  }
}

async function end (child: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill(signal)
  await exited
}

const root = resolve(__dirname, '..', '..')

/** Compiles the package and a program of the tests: a process that compiles itself would take seconds to start. */
export function compile (folder: string, program = 'fault-app'): string {
  const lib = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  for (const file of ['index.ts', 'types/fastify.ts', ...lib.map(file => `lib/${file}`), `test/support/${program}.ts`]) {
    const { outputText } = transpileModule(readFileSync(join(root, file), 'utf8'), {
      compilerOptions: { module: ModuleKind.Node16, target: ScriptTarget.ES2022, esModuleInterop: true },
      fileName: join(root, file)
    })
    const target = join(folder, file.replace(/\.ts$/, '.js'))
    mkdirSync(dirname(target), { recursive: true })
    writeFileSync(target, outputText)
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }')
  return join(folder, `test/support/${program}.js`)
}

/** Says what has become of acknowledged tasks: fails for one that is lost, prints how many ran more than once. */
export function account (t: Test, acknowledged: Iterable<number>, ran: Map<number, number>): void {
  const all = [...acknowledged]
  const lost = all.filter(n => !ran.has(n))
  const duplicates = all.filter(n => (ran.get(n) ?? 0) > 1)
  t.comment(`${all.length} acknowledged, ${lost.length} lost, ${duplicates.length} ran more than once`)
  t.same(lost, [], 'none is lost')
}
