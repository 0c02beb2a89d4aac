import { appendFileSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import backgroundTasks from '../index'

export interface Options {
  logger?: FastifyServerOptions['logger']
  logFile?: string
}

interface SignUp {
  Params: { email: string }
}

/** An object with a state of its own: tasks get this very object, not a copy. */
class Mailer {
  readonly #from: string
  readonly #logFile: string
  sent = 0

  constructor (from: string, logFile: string) {
    this.#from = from
    this.#logFile = logFile
  }

  async send (to: string, subject: string): Promise<void> {
    this.sent++
    await appendFile(this.#logFile, `mail ${this.sent} from ${this.#from} to ${to}: ${subject}\n`)
  }
}

function log (file: string, line: string): void {
  appendFileSync(file, `${line}\n`)
}

async function sendMail (mailer: Mailer, to: string, subject: string): Promise<void> {
  await mailer.send(to, subject)
}

async function countVisitor (email: string): Promise<void> {
  throw new Error(`the statistics server did not take ${email}`)
}

export async function build ({ logger = false, logFile = 'log.txt' }: Options = {}): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(backgroundTasks)
  const mailer = new Mailer('hello@example.com', logFile)

  app.post<SignUp>('/sign-up/:email', async (request, reply) => {
    const { email } = request.params
    request.backgroundTasks.add(log, logFile, `tasks for ${email} started`)
    request.backgroundTasks.add(sendMail, mailer, email, 'Welcome')
    // Its failure is logged, and the tasks after it run.
    request.backgroundTasks.add(countVisitor, email)
    // A method needs its object: passed as `mailer.send`, it would lose `this`.
    request.backgroundTasks.add({ name: 'remind' }, (subject: string) => mailer.send(email, subject), 'Confirm your address')
    request.backgroundTasks.add(log, logFile, `tasks for ${email} ended`)
    reply.code(202)
    return { message: 'Signed up' }
  })

  app.get('/mails', async () => ({ sent: mailer.sent }))

  return app
}

async function main (): Promise<void> {
  const app = await build({ logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: 3000 })
}

if (require.main === module) main()
