import type { JobJson, KeysMap } from 'bullmq'
import { createHash } from 'node:crypto'
import type { Client } from './bullmq-redis-writer'

/*
 * How jobs that wait for nothing but a worker are stored in Redis: by a script of our own, which does for all of them what
 * BullMQ's does for one. That one defines its functions, unpacks its arguments and packs the options for each job anew, which
 * takes Redis as long as all that it then does. Beside a script that is not known here, that one is used.
 */

/** BullMQ's scripts that ours does the same as, by the SHA-1 that Redis knows them by: of 6.4, 6.5 and 6.7. */
const KNOWN = new Set([
  '10f8d228e89ed4f765afc5b3bafb6defbb84e311',
  '8fb5163d74bbb5a726c1d3a7db4d7e4a37be3eb3',
  '5ab432e88830d573e2fa33392ffbd4ad25a9b100'
])

/** The keys of a queue that the script is given; those of the jobs it makes itself, as BullMQ's do. */
const KEYS = ['wait', 'meta', 'id', 'active', 'events', 'marker']

const LUA = `
local waitKey, metaKey, idKey, activeKey, eventsKey, markerKey = unpack(KEYS)
local paused, concurrency, maxEvents = unpack(redis.call('HMGET', metaKey, 'paused', 'concurrency', 'opts.maxLenEvents'))
local closed = paused or concurrency and redis.call('LLEN', activeKey) >= tonumber(concurrency)
if not maxEvents then
  maxEvents = 10000
  redis.call('HSET', metaKey, 'opts.maxLenEvents', maxEvents)
end
local added = false
for first = 2, #ARGV, 5 do
  local id, name, data, opts, timestamp = unpack(ARGV, first, first + 4)
  local jobKey = ARGV[1] .. id
  redis.call('INCR', idKey)
  if redis.call('EXISTS', jobKey) == 1 then
    redis.call('XADD', eventsKey, 'MAXLEN', '~', maxEvents, '*', 'event', 'duplicated', 'jobId', id)
  else
    redis.call('HMSET', jobKey, 'name', name, 'data', data, 'opts', opts, 'timestamp', timestamp, 'delay', 0, 'priority', 0)
    redis.call('XADD', eventsKey, '*', 'event', 'added', 'jobId', id, 'name', name)
    redis.call('LPUSH', waitKey, id)
    redis.call('XADD', eventsKey, 'MAXLEN', '~', maxEvents, '*', 'event', 'waiting', 'jobId', id)
    added = true
  end
end
if added and not closed then redis.call('ZADD', markerKey, 0, '0') end
`

/** Another text has another name: the client may be one that others use, too. */
const COMMAND = `fastify-background-tasks:${sha1(LUA)}`

function sha1 (text: string): string {
  return createHash('sha1').update(text).digest('hex')
}

/**
 * Makes the script a command of the client, if BullMQ's is one that is known.
 * @param version of the BullMQ that is used: a client may have been used by another one, too
 */
export function defineWaiting (client: Client, version: string): boolean {
  const script = client.scriptsSet?.[`addStandardJob:${version}`]
  if (script === undefined || !KNOWN.has(sha1(script.lua))) return false
  client.defineCommand(COMMAND, { lua: LUA, numberOfKeys: KEYS.length })
  return true
}

/** Jobs that one call of the script stores. They have one fate: what can keep one out is the server, or the size of all. */
export class WaitingJobs {
  readonly #client: Client
  readonly #args: string[]
  readonly #sent: Promise<Error | null>
  #resolve!: (sent: Promise<Error | null>) => void

  constructor (client: Client, keys: KeysMap) {
    this.#client = client
    this.#args = KEYS.map(name => keys[name] as string)
    this.#args.push(keys[''] as string)
    this.#sent = new Promise(resolve => { this.#resolve = resolve })
  }

  async add (jobs: JobJson[]): Promise<string[] | Error> {
    const ids = jobs.map(({ id, name, data, opts, timestamp }) => {
      this.#args.push(id, name, data, JSON.stringify(opts), String(timestamp))
      return id
    })
    return await this.#sent ?? ids
  }

  send (): void {
    this.#resolve(this.#run())
  }

  async #run (): Promise<Error | null> {
    try {
      await this.#client.runCommand(COMMAND, this.#args)
      return null
    } catch (error) {
      return error as Error
    }
  }
}
