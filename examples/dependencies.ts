import { closeSync, openSync, writeSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import { fastifyAwilixPlugin, type RequestCradle } from '@fastify/awilix'
import { asClass, asValue, createContainer } from 'awilix'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks, { type BackgroundTasks } from '../index'
import '../types/awilix'

export interface Options {
  logger?: FastifyServerOptions['logger']
  logFile?: string
  databaseFile?: string
}

declare module '@fastify/awilix' {
  interface RequestCradle {
    databaseFile: string
    writeLine: (line: string) => Promise<void>
    database: Database
    queryHistory: QueryHistory
    queryService: QueryService
  }
}

/** A resource that is opened for a request and has to be closed: here a file, elsewhere a connection or a transaction. */
class Database {
  readonly #descriptor: number

  constructor ({ databaseFile }: RequestCradle) {
    this.#descriptor = openSync(databaseFile, 'a')
  }

  /** @throws EBADF once the database is closed */
  insert (row: object): void {
    writeSync(this.#descriptor, `${JSON.stringify(row)}\n`)
  }

  close (): void {
    closeSync(this.#descriptor)
  }
}

class QueryHistory {
  readonly #tasks: BackgroundTasks
  readonly #database: Database
  readonly #writeLine: RequestCradle['writeLine']

  constructor ({ backgroundTasks, database, writeLine }: RequestCradle) {
    this.#tasks = backgroundTasks
    this.#database = database
    this.#writeLine = writeLine
  }

  /** Takes the time of nobody who waits for an answer. */
  remember (query: string): void {
    this.#tasks.add(async () => {
      this.#database.insert({ query })
      await this.#writeLine(`remembered query: ${query}`)
    })
  }
}

class QueryService {
  readonly #tasks: BackgroundTasks
  readonly #history: QueryHistory
  readonly #writeLine: RequestCradle['writeLine']

  constructor ({ backgroundTasks, queryHistory, writeLine }: RequestCradle) {
    this.#tasks = backgroundTasks
    this.#history = queryHistory
    this.#writeLine = writeLine
  }

  read (query: string): void {
    this.#tasks.add(this.#writeLine, `found query: ${query}`)
    this.#history.remember(query)
  }
}

const querystring = { type: 'object', properties: { q: { type: 'string' } } }

export async function build ({ logger = false, logFile = 'log.txt', databaseFile = 'queries.jsonl' }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  // In this order: the plugin gives the collector to the scopes that @fastify/awilix makes.
  await app.register(fastifyAwilixPlugin, { container: createContainer() })
  await app.register(backgroundTasks)

  app.diContainer.register({
    databaseFile: asValue(databaseFile),
    writeLine: asValue(writeLine),
    database: asClass(Database).scoped().disposer(closeDatabase),
    queryHistory: asClass(QueryHistory).scoped(),
    queryService: asClass(QueryService).scoped()
  })

  // The services and the handler all add to the one collector of the request.
  app.post<{ Params: { email: string }, Querystring: { q?: string } }>('/send-notification/:email', { schema: { querystring } }, async (request) => {
    const { q } = request.query
    if (q) request.diScope.resolve('queryService').read(q)
    request.backgroundTasks.add(writeLine, `message to ${request.params.email}`)
    return { message: 'Message sent' }
  })

  // Called once the last task of the request has settled.
  async function closeDatabase (database: Database): Promise<void> {
    database.close()
    await writeLine('database closed')
  }

  async function writeLine (line: string): Promise<void> {
    await appendFile(logFile, `${line}\n`)
  }

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  // Closing waits for the tasks; a process that just ends loses them.
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
