import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, chownSync, constants, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import type { Test } from 'tap'

/*
 * Real servers for the tests: those that REDIS_URL and DATABASE_URL name, else ones of the test's own, from the binaries
 * on the machine, on free ports of the loopback interface. No other server of the machine is touched.
 */

/** A server that the test may use, but not stop. */
export interface Service {
  readonly url: string
}

/** A server of the test's own. It is stopped, and what it has written is removed, when the test ends. */
export interface OwnService extends Service {
  readonly port: number
  readonly pid: number
  /** Starts it again, on the same port and with the same data. */
  start (): Promise<void>
  /** Ends it in an orderly way, or at once. */
  stop (signal?: 'SIGTERM' | 'SIGKILL'): Promise<void>
}

/** Milliseconds that a server may take to answer. */
const READY = 30_000

const redisServer = findBinary('redis-server')
const postgresFolder = findBinary('initdb', postgresFolders())?.replace(/\/initdb$/, '')
/** Postgres refuses to run as root. */
const postgresUser = process.getuid?.() === 0 ? userIds('postgres') ?? userIds('nobody') : null

// Empty is as good as not set, as it is for the script that installs the servers.
const redisUrl = process.env.REDIS_URL || undefined
const postgresUrl = process.env.DATABASE_URL || undefined

/** Why a test that needs a Redis cannot run, or `false`. */
export const noOwnRedis: string | false = redisServer !== undefined
  ? false
  : 'there is no redis-server on this machine: install one (Debian: redis-server)'

export const noRedis: string | false = redisUrl !== undefined
  ? false
  : noOwnRedis && `${noOwnRedis}, or set REDIS_URL`

/** Why a test that needs a Postgres cannot run, or `false`. */
export const noOwnPostgres: string | false = postgresFolder !== undefined
  ? false
  : 'there are no binaries of PostgreSQL on this machine: install them (Debian: postgresql)'

export const noPostgres: string | false = postgresUrl !== undefined
  ? false
  : noOwnPostgres && `${noOwnPostgres}, or set DATABASE_URL`

/** The Redis of `REDIS_URL`, or one that ends with the test. */
export async function redis (t: Test): Promise<Service> {
  return redisUrl !== undefined ? { url: redisUrl } : ownRedis(t)
}

/** The Postgres of `DATABASE_URL`, or one that ends with the test. */
export async function postgres (t: Test): Promise<Service> {
  return postgresUrl !== undefined ? { url: postgresUrl } : ownPostgres(t)
}

/** A Redis that the test may stop and start. It writes each command to the disk before it answers. */
export async function ownRedis (t: Test, args: string[] = []): Promise<OwnService> {
  const folder = temporaryFolder(t, 'redis')
  const port = await freePort()
  const service = new Server(`redis://127.0.0.1:${port}`, port, () => spawn(redisServer as string, [
    '--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '',
    '--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', ...args
  ], { stdio: 'ignore' }), () => pingRedis(port))
  t.teardown(() => service.stop('SIGKILL'))
  await service.start()
  return service
}

/** A Postgres that the test may stop and start. */
export async function ownPostgres (t: Test): Promise<OwnService> {
  const folder = temporaryFolder(t, 'postgres')
  const port = await freePort()
  if (postgresUser !== null) chownSync(folder, postgresUser.uid, postgresUser.gid)
  const user = { cwd: folder, ...postgresUser }
  const data = join(folder, 'data')
  execFileSync(join(postgresFolder as string, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'], { ...user, stdio: 'pipe' })
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  const service = new Server(url, port, () => spawn(join(postgresFolder as string, 'postgres'), [
    '-D', data, '-p', String(port), '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=', '-c', 'shared_buffers=32MB'
  ], { ...user, stdio: 'ignore' }), () => pingPostgres(url))
  t.teardown(() => service.stop('SIGTERM'))
  await service.start()
  return service
}

class Server implements OwnService {
  readonly url: string
  readonly port: number
  readonly #spawn: () => ChildProcess
  readonly #ping: () => Promise<boolean>
  #process: ChildProcess | null = null
  /** Where a test process ends without its teardown, its server must not stay. */
  readonly #onExit = () => { this.#process?.kill('SIGKILL') }

  constructor (url: string, port: number, spawn: () => ChildProcess, ping: () => Promise<boolean>) {
    this.url = url
    this.port = port
    this.#spawn = spawn
    this.#ping = ping
  }

  get pid (): number {
    return this.#process?.pid as number
  }

  async start (): Promise<void> {
    const child = this.#process = this.#spawn()
    process.once('exit', this.#onExit)
    const deadline = Date.now() + READY
    while (!await this.#ping()) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`${this.url} did not start (exit code ${child.exitCode})`)
      await sleep(20)
    }
  }

  async stop (signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#process
    if (child === null) return
    this.#process = null
    process.off('exit', this.#onExit)
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    // For Postgres SIGTERM would wait for its clients to leave; SIGINT ends their sessions.
    child.kill(signal === 'SIGTERM' && this.url.startsWith('postgres') ? 'SIGINT' : signal)
    // A server that is stopped does not hear.
    child.kill('SIGCONT')
    await exited
  }
}

function findBinary (name: string, folders: string[] = []): string | undefined {
  return [...(process.env.PATH ?? '').split(delimiter), ...folders].map(folder => join(folder, name)).find(isExecutable)
}

function isExecutable (file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Where Debian puts the binaries of PostgreSQL, the newest version first. */
function postgresFolders (): string[] {
  try {
    return readdirSync('/usr/lib/postgresql').sort((a, b) => Number(b) - Number(a)).map(version => `/usr/lib/postgresql/${version}/bin`)
  } catch {
    return []
  }
}

function userIds (name: string): { uid: number, gid: number } | null {
  try {
    const id = (flag: string) => Number(execFileSync('id', [flag, name], { stdio: 'pipe' }))
    return { uid: id('-u'), gid: id('-g') }
  } catch {
    return null
  }
}

function temporaryFolder (t: Test, name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `background-tasks-${name}-`))
  // Registered before the server's own teardown, and so called after it.
  t.teardown(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

export async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** A server that still reads its data from the disk answers with an error. */
function pingRedis (port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'))
    socket.setTimeout(1_000, () => socket.destroy())
    socket.once('data', data => {
      resolve(data.toString().startsWith('+PONG'))
      socket.destroy()
    })
    socket.once('error', () => resolve(false))
    socket.once('close', () => resolve(false))
  })
}

async function pingPostgres (url: string): Promise<boolean> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 1_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.query('SELECT 1')
    return true
  } catch {
    return false
  } finally {
    await client.end().catch(() => {})
  }
}
