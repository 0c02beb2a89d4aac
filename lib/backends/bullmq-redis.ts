import type { JobJson, Queue } from 'bullmq'

/* How jobs are stored in Redis: those of a few requests by one command. */

/** What BullMQ gives a command to: a client of Redis, or what gathers commands, as its transactions do. */
interface Commands {
  runCommand (name: string, args: unknown[]): Promise<unknown>
}

interface Script { lua: string, numberOfKeys: number }

/** What is used of ioredis, as BullMQ wraps it. */
interface Client extends Commands {
  /** What `defineCommand` has made, by name. Other clients, which BullMQ takes too, have it not. */
  readonly scriptsSet?: Record<string, Script>
  defineCommand (name: string, script: Script): void
}

/** What BullMQ's backend on Redis adds each of its jobs with, also those of a transaction. */
interface Adding {
  addJobToTransaction (commands: Commands, job: JobJson, id: string): Promise<string>
}

/** The scripts that can be called together, and how many keys they have. */
type Scripts = ReadonlyMap<string, number>

/** One call of a script, with its keys and arguments. */
interface Call {
  args: unknown[]
  resolve (reply: unknown): void
  reject (error: unknown): void
}

/** Calls that go together, unless one request has more: the server must not be held up for long by 25 µs each. */
const MAX_CALLS = 100

/** Stores jobs of a BullMQ queue in Redis. */
export class RedisWriter {
  readonly #backend: Adding
  readonly #client: Client
  readonly #scripts: Scripts

  private constructor (backend: Adding, client: Client, scripts: Scripts) {
    this.#backend = backend
    this.#client = client
    this.#scripts = scripts
  }

  /** @param queue one that is ready */
  static async open (queue: Queue): Promise<RedisWriter> {
    const backend = queue.getBackend() as unknown as Adding & { client: Promise<Client> }
    const client = await backend.client
    const scripts = new Map<string, number>()
    for (const [name, { lua, numberOfKeys }] of Object.entries(client.scriptsSet ?? {})) {
      if (!ADDING.test(name)) continue
      client.defineCommand(callingEach(name), { lua: scriptCallingEach(lua), numberOfKeys })
      scripts.set(name, numberOfKeys)
    }
    // A pipeline of ioredis knows the scripts of when it was opened; with `enableAutoPipelining` there may be one, until the turn ends.
    await new Promise(resolve => { setImmediate(resolve) })
    return new RedisWriter(backend, client, scripts)
  }

  /** Stores batches of jobs, each whole or not at all. The result has for each the ids, or the error that kept it out. */
  add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    let calls = new Calls(this.#client, this.#scripts)
    const stored = batches.map(jobs => {
      const ids = jobs.map(job => this.#backend.addJobToTransaction(calls, job, job.id))
      if (calls.count >= MAX_CALLS) {
        calls.send()
        calls = new Calls(this.#client, this.#scripts)
      }
      return settled(ids).catch((error: Error) => error)
    })
    calls.send()
    return Promise.all(stored)
  }
}

/** Nothing of them is under way any more when it rejects: what follows would else be overtaken by what they still do. */
async function settled<T> (promises: Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}

/**
 * Gathers the calls of BullMQ's scripts, and has Redis run those of the same script as one. What a call by itself costs this
 * process, the command that ioredis makes and the system call that sends it, is as much again as all else that is done for a job.
 */
class Calls implements Commands {
  readonly #client: Client
  readonly #scripts: Scripts
  readonly #gathered = new Map<string, Call[]>()
  #sent = false
  count = 0

  constructor (client: Client, scripts: Scripts) {
    this.#client = client
    this.#scripts = scripts
  }

  runCommand (name: string, args: unknown[]): Promise<unknown> {
    // BullMQ calls in the same turn (6.7). Should it take longer one day, that must cost time, and no task.
    if (this.#sent) return this.#client.runCommand(name, args)
    this.count++
    return new Promise((resolve, reject) => {
      const calls = this.#gathered.get(name)
      if (calls === undefined) this.#gathered.set(name, [{ args, resolve, reject }])
      else calls.push({ args, resolve, reject })
    })
  }

  send (): void {
    this.#sent = true
    for (const [name, calls] of this.#gathered) {
      const numberOfKeys = this.#scripts.get(name)
      if (calls.length !== 1 && numberOfKeys !== undefined) this.#sendTogether(name, numberOfKeys, calls)
      else for (const { args, resolve, reject } of calls) this.#client.runCommand(name, args).then(resolve, reject)
    }
  }

  #sendTogether (name: string, numberOfKeys: number, calls: Call[]): void {
    // All of them are about one queue: they have the same keys.
    const args = calls[0]!.args.slice(0, numberOfKeys)
    args.push(calls[0]!.args.length - numberOfKeys)
    for (const call of calls) for (let index = numberOfKeys; index < call.args.length; index++) args.push(call.args[index])
    this.#client.runCommand(callingEach(name), args).then(replies => {
      calls.forEach(({ resolve, reject }, index) => {
        const reply = (replies as unknown[])[index]
        if (reply instanceof Error) reject(reply)
        else resolve(reply)
      })
    }, error => { for (const { reject } of calls) reject(error) })
  }
}

/** The names under which BullMQ has its scripts for a job that waits, and for one with a delay; its version follows. */
const ADDING = /^add(Standard|Delayed)Job:[^:]*$/

/** The name of the script that calls another one for each job. */
function callingEach (name: string): string {
  return `${name}:each`
}

/**
 * A script that calls another one for each list of arguments it is given; its first argument is their length. A call that
 * fails has its error among the replies, and leaves the others alone. Where all fail it fails itself, as ioredis asks
 * `reconnectOnError` only about that: the server may not be the master any more.
 */
function scriptCallingEach (lua: string): string {
  return `
local function call(KEYS, ARGV)
${lua}
end
local length = tonumber(ARGV[1])
local replies, failed = {}, 0
for first = 2, #ARGV, length do
  local done, reply = pcall(call, KEYS, { unpack(ARGV, first, first + length - 1) })
  if not done then
    failed = failed + 1
    -- An error of Lua's own is a string; before Redis 7 those of commands are, too.
    if type(reply) == 'string' then reply = redis.error_reply(reply) end
  end
  replies[#replies + 1] = reply
end
if failed == #replies then return replies[1] end
return replies
`
}
