import type { IQueueBackend, JobJson, Queue } from 'bullmq'
import type { NewJob } from './bullmq-jobs'

/* How jobs are stored in Redis: those of a few requests by one command. */

/** What BullMQ gives a command to: a client of Redis, or what gathers commands, as its transactions do. */
interface Commands {
  runCommand (name: string, args: unknown[]): Promise<unknown>
}

/** What is used of ioredis, as BullMQ wraps it. */
interface Client extends Commands {
  /** What `defineCommand` has made, by name. */
  readonly scriptsSet: Record<string, { lua: string, numberOfKeys: number }>
  defineCommand (name: string, definition: { lua: string, numberOfKeys: number }): void
}

/** What BullMQ's own `FlowProducer` adds jobs with. */
interface Adding {
  addJobToTransaction (commands: Commands, job: JobJson, id: string): Promise<string>
}

/** One call of a script, with its keys and arguments. */
interface Call {
  args: unknown[]
  resolve (reply: unknown): void
  reject (error: unknown): void
}

/** The server must not be held up by one command for long: calls, some 20 µs each. */
const MAX_CALLS = 100

/**
 * Stores jobs of a queue in batches, each whole or not at all. The result has for each batch the ids, or the error that kept it out.
 */
export async function addInBatches (queue: Queue, batches: NewJob[][]): Promise<Array<string[] | Error>> {
  const backend = queue.getBackend() as unknown as IQueueBackend & Adding & { client: Promise<Client> }
  const calls = new Calls(await backend.client)
  const stored = batches.map(jobs => {
    const ids = Promise.all(jobs.map(job => backend.addJobToTransaction(calls, job as JobJson, job.id)))
    if (calls.count >= MAX_CALLS) calls.send()
    return ids.catch((error: Error) => error)
  })
  calls.send()
  return Promise.all(stored)
}

/**
 * Gathers the calls of BullMQ's scripts, and has Redis run those of the same script as one. What a call by itself costs this
 * process, the command that ioredis makes and the system call that sends it, is as much again as all else that is done for a job.
 */
class Calls implements Commands {
  readonly #client: Client
  #gathered = new Map<string, Call[]>()
  count = 0

  constructor (client: Client) {
    this.#client = client
  }

  runCommand (name: string, args: unknown[]): Promise<unknown> {
    this.count++
    return new Promise((resolve, reject) => {
      const calls = this.#gathered.get(name)
      if (calls === undefined) this.#gathered.set(name, [{ args, resolve, reject }])
      else calls.push({ args, resolve, reject })
    })
  }

  send (): void {
    for (const [name, calls] of this.#gathered) {
      if (calls.length === 1) this.#sendAlone(name, calls[0]!)
      else this.#sendTogether(name, calls)
    }
    this.#gathered = new Map()
    this.count = 0
  }

  #sendAlone (name: string, { args, resolve, reject }: Call): void {
    this.#client.runCommand(name, args).then(resolve, reject)
  }

  #sendTogether (name: string, calls: Call[]): void {
    const { lua, numberOfKeys } = this.#client.scriptsSet[name]!
    const each = `${name}:each`
    if (this.#client.scriptsSet[each] === undefined) this.#client.defineCommand(each, { lua: callingEach(lua), numberOfKeys })
    // All of them are about one queue: they have the same keys.
    const args = calls[0]!.args.slice(0, numberOfKeys)
    args.push(calls[0]!.args.length - numberOfKeys)
    for (const call of calls) for (let index = numberOfKeys; index < call.args.length; index++) args.push(call.args[index])
    this.#client.runCommand(each, args).then(replies => {
      calls.forEach(({ resolve, reject }, index) => {
        const reply = (replies as unknown[])[index]
        if (reply instanceof Error) reject(reply)
        else resolve(reply)
      })
    }, error => { for (const { reject } of calls) reject(error) })
  }
}

/**
 * A script that calls another one for each list of arguments it is given; its first argument is their length. A call that
 * fails has its error among the replies, and leaves the others alone.
 */
function callingEach (lua: string): string {
  return `
local function call(KEYS, ARGV)
${lua}
end
local length = tonumber(ARGV[1])
local replies = {}
for first = 2, #ARGV, length do
  local done, reply = pcall(call, KEYS, { unpack(ARGV, first, first + length - 1) })
  -- Before Redis 7 an error is a string.
  if not done and type(reply) == 'string' then reply = redis.error_reply(reply) end
  replies[#replies + 1] = reply
end
return replies
`
}
