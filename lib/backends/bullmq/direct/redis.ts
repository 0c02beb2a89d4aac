import type { JobJson, Queue } from 'bullmq'
import { RedisBatches } from '../redis/batches'
import { clientOf, defineScript, type RunScript } from '../redis/script'
import type { JobWriter } from '../job-writer'
import { addSplit } from './split'

/** The keys of a queue that the script is given. Keys of jobs it makes itself, as BullMQ's scripts do. */
const KEYS = ['wait', 'meta', 'id', 'active', 'events', 'marker']

/**
 * Does for many jobs what BullMQ's `addStandardJob` does for one. BullMQ's script defines its functions, unpacks its arguments and packs
 * the options for each job anew: half of what a job costs Redis.
 */
const ADD = `
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

/** Stores jobs in Redis by a script of this package. Jobs with a delay or a dedupe id are left to the plain writer. */
export class DirectRedisWriter implements JobWriter {
  readonly kind = 'direct'
  readonly #keys: readonly string[]
  readonly #script: RunScript
  readonly #batches: RedisBatches
  readonly #plain: JobWriter

  private constructor (queue: Queue, script: RunScript, plain: JobWriter) {
    this.#keys = [...KEYS, ''].map(name => queue.keys[name] as string)
    this.#script = script
    this.#batches = new RedisBatches(queue, group => this.#put(group))
    this.#plain = plain
  }

  /** @param queue one that is ready */
  static async open (queue: Queue, plain: JobWriter): Promise<DirectRedisWriter> {
    return new DirectRedisWriter(queue, await defineScript(await clientOf(queue), ADD, KEYS.length), plain)
  }

  async add (batches: JobJson[][]): Promise<Array<string[] | Error>> {
    return addSplit(batches, waits, own => this.#batches.add(own), others => this.#plain.add(others))
  }

  /** The jobs have one fate: only the server, or the size of all, can keep one out. */
  async #put (group: JobJson[][]): Promise<Array<string[] | Error>> {
    const args: string[] = [...this.#keys]
    for (const batch of group) {
      for (const { id, name, data, opts, timestamp } of batch) args.push(id, name, data, JSON.stringify(opts), String(timestamp))
    }
    try {
      await this.#script(args)
      return group.map(batch => batch.map(({ id }) => id))
    } catch (error) {
      return group.map(() => error as Error)
    }
  }
}

/** Whether a job has nothing to wait for but a worker. */
function waits ({ opts, deduplicationId }: JobJson): boolean {
  return opts.delay === undefined && deduplicationId === undefined
}
