import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, chownSync, constants, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import type { Test } from 'tap'
import { NEVER_MS } from './until'

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

/** For a run as on a machine that has nothing but Node. */
const isBare = process.env.TEST_SERVERS === 'none'

const redisServer = findBinary('redis-server')
const postgresFolder = findBinary('initdb', postgresFolders())?.replace(/\/initdb$/, '')
const pgbouncer = findBinary('pgbouncer', ['/usr/sbin'])
// Debian's script of the same name on the path starts it as another user, for the whole machine.
const rabbitServer = findBinary('rabbitmq-server', [], ['/usr/lib/rabbitmq/bin'])
const epmd = findBinary('epmd')
/** Postgres refuses to run as root. */
const postgresUser = process.getuid?.() === 0 ? userIds('postgres') ?? userIds('nobody') : null

// Empty is as good as not set, as it is for the script that installs the servers.
const redisUrl = (!isBare && process.env.REDIS_URL) || undefined
const postgresUrl = (!isBare && process.env.DATABASE_URL) || undefined

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

/** Why a test that needs a pgbouncer cannot run, or `false`. */
export const noOwnPgbouncer: string | false = pgbouncer !== undefined
  ? noOwnPostgres
  : 'there is no pgbouncer on this machine: install one (Debian: pgbouncer)'

/** Why a test that needs a RabbitMQ cannot run, or `false`. */
export const noRabbit: string | false = rabbitServer !== undefined && epmd !== undefined
  ? false
  : 'there is no RabbitMQ on this machine: install one (Debian: rabbitmq-server)'

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

/** How the tools of a RabbitMQ of a test find it. */
const rabbitEnvironments = new WeakMap<OwnService, NodeJS.ProcessEnv>()

/** A RabbitMQ that the test may stop and start. */
export async function ownRabbit (t: Test): Promise<OwnService> {
  const folder = temporaryFolder(t, 'rabbit')
  const [port, distPort, epmdPort] = [await freePort(), await freePort(), await freePort()]
  // Nodes of Erlang find each other by it. One of the test's own is not left behind, and knows of no other node.
  const names = new Server('epmd', epmdPort, () => spawn(epmd as string, ['-port', String(epmdPort), '-address', '127.0.0.1'], { stdio: 'ignore' }), () => pingTcp(epmdPort))
  t.teardown(() => names.stop('SIGKILL'))
  await names.start()
  writeFileSync(join(folder, 'rabbit.conf'), `listeners.tcp.1 = 127.0.0.1:${port}\n`)
  const env = {
    ...process.env,
    NODE_OPTIONS: '',
    HOME: folder,
    ERL_EPMD_PORT: String(epmdPort),
    RABBITMQ_CONF_ENV_FILE: '/dev/null',
    RABBITMQ_CONFIG_FILE: join(folder, 'rabbit'),
    RABBITMQ_NODENAME: `test${port}@localhost`,
    RABBITMQ_DIST_PORT: String(distPort),
    RABBITMQ_MNESIA_BASE: join(folder, 'data'),
    RABBITMQ_LOG_BASE: join(folder, 'log'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'plugins'),
    RABBITMQ_PID_FILE: join(folder, 'pid'),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-start_epmd false +S 1:1',
    // The script becomes the server, instead of a shell that waits for it.
    RUNNING_UNDER_SYSTEMD: '1'
  }
  const service = new Server(`amqp://guest:guest@127.0.0.1:${port}`, port, () => spawn(rabbitServer as string, [], { cwd: folder, env, stdio: 'ignore' }), () => pingRabbit(port))
  rabbitEnvironments.set(service, env)
  t.teardown(() => service.stop('SIGKILL'))
  await service.start()
  return service
}

/** Evaluates an expression of Erlang in a RabbitMQ of the test. */
export function evalInRabbit (service: OwnService, expression: string): string {
  return execFileSync(join(dirname(rabbitServer as string), 'rabbitmqctl'), ['-q', 'eval', expression], { env: rabbitEnvironments.get(service), stdio: 'pipe', encoding: 'utf8' })
}

/** Where the Postgres of a test has its data. */
const dataOf = new WeakMap<OwnService, string>()

/** The folder of the Unix socket that a Postgres of a test listens on, too. */
export function socketFolderOf (service: OwnService): string {
  return dirname(dataOf.get(service) as string)
}

/**
 * A pgbouncer in front of a Postgres of the test, in transaction mode.
 * @param settings further lines of its configuration
 */
export async function ownPgbouncer (t: Test, { port: postgresPort }: OwnService, settings: string[] = []): Promise<OwnService> {
  const folder = temporaryFolder(t, 'pgbouncer')
  if (postgresUser !== null) chownSync(folder, postgresUser.uid, postgresUser.gid)
  const port = await freePort()
  const file = join(folder, 'pgbouncer.ini')
  writeFileSync(file, [
    '[databases]', `postgres = host=127.0.0.1 port=${postgresPort} user=postgres dbname=postgres`,
    '[pgbouncer]', 'listen_addr = 127.0.0.1', `listen_port = ${port}`, 'unix_socket_dir =', 'auth_type = any', 'pool_mode = transaction', ...settings
  ].join('\n'))
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  const service = new Server(url, port, () => spawn(pgbouncer as string, [file], { cwd: folder, ...postgresUser, stdio: 'ignore' }), () => pingPostgres(url))
  t.teardown(() => service.stop('SIGKILL'))
  await service.start()
  return service
}

/**
 * A Postgres that the test may stop and start.
 * @param origin a server whose data it begins with, as a standby that is promoted does; it is restarted for that
 */
export async function ownPostgres (t: Test, origin?: OwnService): Promise<OwnService> {
  const folder = temporaryFolder(t, 'postgres')
  const port = await freePort()
  if (postgresUser !== null) chownSync(folder, postgresUser.uid, postgresUser.gid)
  const user = { cwd: folder, ...postgresUser }
  const data = join(folder, 'data')
  if (origin !== undefined) {
    await origin.stop()
    execFileSync('cp', ['-a', dataOf.get(origin) as string, data])
    await origin.start()
  } else makeCluster(data, user)
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  const service = new Server(url, port, () => spawn(join(postgresFolder as string, 'postgres'), [
    '-D', data, '-p', String(port), '-c', 'listen_addresses=127.0.0.1', '-c', `unix_socket_directories=${folder}`, '-c', 'shared_buffers=32MB'
  ], { ...user, stdio: 'ignore' }), () => pingPostgres(url))
  dataOf.set(service, data)
  t.teardown(() => service.stop('SIGTERM'))
  await service.start()
  return service
}

/** Makes the files of a new Postgres: a copy of what the first test of this checkout has made, as `initdb` takes seconds. */
function makeCluster (data: string, user: { uid?: number, gid?: number, cwd: string }): void {
  const kept = join(__dirname, '../../.cache', `cluster-${user.uid ?? 'own'}${(postgresFolder as string).replaceAll('/', '-')}`)
  if (existsSync(kept)) {
    execFileSync('cp', ['-a', kept, data])
    return
  }
  execFileSync(join(postgresFolder as string, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'], { ...user, stdio: 'pipe' })
  mkdirSync(dirname(kept), { recursive: true })
  const unfinished = mkdtempSync(`${kept}-`)
  execFileSync('cp', ['-a', data, unfinished])
  try {
    renameSync(join(unfinished, 'data'), kept)
  } catch {
    // Another test was first.
  }
  rmSync(unfinished, { recursive: true, force: true })
}

/** Has a Postgres ask for a password. Returns the URL with it. */
export async function withPassword (service: OwnService, password: string): Promise<string> {
  const client = new Client({ connectionString: service.url })
  await client.connect()
  await client.query(`ALTER USER postgres PASSWORD '${password}'`)
  writeFileSync(join(dataOf.get(service) as string, 'pg_hba.conf'), 'host all all 127.0.0.1/32 scram-sha-256\n')
  await client.query('SELECT pg_reload_conf()')
  await client.end()
  const url = new URL(service.url)
  url.password = password
  return url.href
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
    const deadline = Date.now() + NEVER_MS
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

export function findBinary (name: string, folders: string[] = [], firstFolders: string[] = []): string | undefined {
  if (isBare) return undefined
  return [...firstFolders, ...(process.env.PATH ?? '').split(delimiter), ...folders].map(folder => join(folder, name)).find(isExecutable)
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

/** It accepts connections before it has read its queues. */
function pingRabbit (port: number): Promise<boolean> {
  return pingTcp(port, 'AMQP\0\0\x09\x01')
}

/** @param greeting after which the server has to say something */
function pingTcp (port: number, greeting?: string): Promise<boolean> {
  return new Promise(resolve => {
    const end = (answer: boolean) => {
      resolve(answer)
      socket.destroy()
    }
    const socket = connect(port, '127.0.0.1', () => greeting === undefined ? end(true) : socket.write(greeting, 'latin1'))
    socket.setTimeout(1_000, () => end(false))
    socket.once('data', () => end(true))
    socket.once('error', () => end(false))
    socket.once('close', () => end(false))
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
