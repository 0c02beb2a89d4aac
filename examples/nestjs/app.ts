import 'reflect-metadata'
import { Body, ConflictException, Controller, Inject, Injectable, Module, Post, type OnApplicationShutdown } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import backgroundTasks, { defineTask, type AppBackgroundTasks, type BackgroundTasks } from '../../index'
import { APP_TASKS, BackgroundTasksModule, REQUEST_TASKS, Tasks } from './background-tasks'

interface SignUp {
  email: string
}

/** What the application does, in its order. A test may look at it. */
export const journal: string[] = []

/** Stands for a pool of connections, which tasks need until the last of them has ended. */
@Injectable()
export class Database implements OnApplicationShutdown {
  readonly #emails = new Set<string>()

  insert (email: string): boolean {
    if (this.#emails.has(email)) return false
    this.#emails.add(email)
    return true
  }

  log (line: string): void {
    journal.push(line)
  }

  // Not in onModuleDestroy, nor in beforeApplicationShutdown: Nest calls both before the server has closed and the tasks have ended.
  onApplicationShutdown (): void {
    journal.push('database closed')
  }
}

export const welcome = defineTask('welcome', async ({ email }: SignUp) => {
  journal.push(`welcome, ${email}`)
})

/** Made for each request, because it is given the request's tasks. */
@Injectable()
export class SignUpService {
  constructor (
    private readonly database: Database,
    @Inject(REQUEST_TASKS) private readonly tasks: BackgroundTasks
  ) {}

  signUp (email: string): void {
    this.tasks.add(welcome, { email })
    this.tasks.add({ runOn: 'failure' }, line => { this.database.log(line) }, `${email} was refused`)
    if (!this.database.insert(email)) throw new ConflictException('this address has signed up already')
  }
}

/** A singleton: what it adds belongs to no request. */
@Injectable()
export class Statistics {
  constructor (@Inject(APP_TASKS) private readonly tasks: AppBackgroundTasks) {}

  get completed (): number {
    return this.tasks.stats().completed
  }
}

@Controller('sign-ups')
export class SignUpController {
  constructor (private readonly signUps: SignUpService, private readonly database: Database) {}

  @Post()
  signUp (@Body() { email }: SignUp, @Tasks() tasks: BackgroundTasks): SignUp {
    this.signUps.signUp(email)
    tasks.add(() => { this.database.log(`${email} has signed up`) })
    return { email }
  }
}

@Module({
  imports: [BackgroundTasksModule],
  controllers: [SignUpController],
  providers: [Database, SignUpService, Statistics]
})
export class AppModule {}

export async function build (): Promise<NestFastifyApplication> {
  const adapter = new FastifyAdapter({ logger: false })
  // Before Nest: its routes come later, and its providers find `backgroundTasks`.
  await adapter.getInstance().register(backgroundTasks, {
    tasks: [welcome],
    // Nest answers exceptions itself. To Fastify, and to the plugin, such an answer is one like any other.
    outcome: (_request, reply) => reply.statusCode >= 400 ? 'failure' : undefined
  })
  const app = await NestFactory.create<NestFastifyApplication>(AppModule, adapter, { logger: ['error', 'warn'] })
  // At SIGTERM Nest closes the application, and with it the server, which waits for the tasks.
  return app.enableShutdownHooks()
}
