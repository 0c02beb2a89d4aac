import type { JobJson } from 'bullmq'
import type { Client } from './bullmq-redis-writer'

/*
 * How jobs are stored in Redis by BullMQ's own scripts: those of the same script by one command. What a command by itself costs
 * this process, and the system call that sends it, is as much again as all else that is done for a job.
 */

/** What BullMQ gives a command to: a client of Redis, or what gathers commands, as its transactions do. */
interface Commands {
  runCommand (name: string, args: unknown[]): Promise<unknown>
}

/** What BullMQ's backend on Redis adds each of its jobs with, also those of a transaction. */
export interface Adding {
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

/** The names under which BullMQ has its scripts for a job that waits, and for one with a delay; its version follows. */
const ADDING = /^add(Standard|Delayed)Job:[^:]*$/

/** The name of the script that calls another one for each job. */
function callingEach (name: string): string {
  return `${name}:each`
}

/** Makes commands of the client that call BullMQ's scripts for many jobs, and tells which there are. */
export function defineCalls (client: Client): Scripts {
  const scripts = new Map<string, number>()
  for (const [name, { lua, numberOfKeys }] of Object.entries(client.scriptsSet ?? {})) {
    if (!ADDING.test(name)) continue
    client.defineCommand(callingEach(name), { lua: scriptCallingEach(lua), numberOfKeys })
    scripts.set(name, numberOfKeys)
  }
  return scripts
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

/**
 * Jobs that go together: gathers the calls of scripts that BullMQ makes for them, and has Redis run those of the same script,
 * one after the other, as one.
 */
export class JobCalls implements Commands {
  readonly #backend: Adding
  readonly #client: Client
  readonly #scripts: Scripts
  readonly #gathered: Array<{ name: string, calls: Call[] }> = []
  #sent = false

  constructor (backend: Adding, client: Client, scripts: Scripts) {
    this.#backend = backend
    this.#client = client
    this.#scripts = scripts
  }

  add (jobs: JobJson[]): Promise<string[] | Error> {
    return settled(jobs.map(async job => this.#backend.addJobToTransaction(this, job, job.id))).catch((error: Error) => error)
  }

  runCommand (name: string, args: unknown[]): Promise<unknown> {
    // BullMQ calls in the same turn (6.7). Should it take longer one day, that must cost time, and no task.
    if (this.#sent) return this.#client.runCommand(name, args)
    return new Promise((resolve, reject) => {
      const call = { args, resolve, reject }
      const last = this.#gathered.at(-1)
      if (last?.name === name) last.calls.push(call)
      else this.#gathered.push({ name, calls: [call] })
    })
  }

  send (): void {
    this.#sent = true
    for (const { name, calls } of this.#gathered) {
      const numberOfKeys = this.#scripts.get(name)
      if (calls.length !== 1 && numberOfKeys !== undefined) this.#sendTogether(name, numberOfKeys, calls)
      else for (const call of calls) this.#send(name, call.args).then(call.resolve, call.reject)
    }
  }

  /** What cannot even be sent must not keep the others from it. */
  async #send (name: string, args: unknown[]): Promise<unknown> {
    return this.#client.runCommand(name, args)
  }

  #sendTogether (name: string, numberOfKeys: number, calls: Call[]): void {
    // All of them are about one queue: they have the same keys.
    const args = calls[0]!.args.slice(0, numberOfKeys)
    args.push(calls[0]!.args.length - numberOfKeys)
    for (const call of calls) for (let index = numberOfKeys; index < call.args.length; index++) args.push(call.args[index])
    this.#send(callingEach(name), args).then(replies => {
      calls.forEach(({ resolve, reject }, index) => {
        const reply = (replies as unknown[])[index]
        if (reply instanceof Error) reject(reply)
        else resolve(reply)
      })
    }, error => { for (const { reject } of calls) reject(error) })
  }
}

/** Nothing of them is under way any more when it rejects: what follows would else be overtaken by what they still do. */
async function settled<T> (promises: Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}
