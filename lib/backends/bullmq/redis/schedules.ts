import type { Queue } from 'bullmq'
import type { ScheduleRecords } from '../schedule-record'
import { clientOf, defineScript } from './script'

/** The hash of a queue's schedules. BullMQ takes no job id with a colon from users. */
const KEY = 'fastify-background-tasks:schedules'

const READ = `
local seconds, micros = unpack(redis.call('TIME'))
local found
if ARGV[1] == 'all' then
  found = redis.call('HGETALL', KEYS[1])
else
  found = {}
  for i = 2, #ARGV do
    local id = ARGV[i]
    local text = redis.call('HGET', KEYS[1], id)
    if text then
      found[#found + 1] = id
      found[#found + 1] = text
    end
  end
end
return { seconds * 1000 + math.floor(micros / 1000), found }
`

/** An empty text stands for no record. */
const SWAP = `
local id, before, after = unpack(ARGV)
if (redis.call('HGET', KEYS[1], id) or '') ~= before then return 0 end
if after == '' then redis.call('HDEL', KEYS[1], id) else redis.call('HSET', KEYS[1], id, after) end
return 1
`

/** The records of a queue's schedules in Redis. */
export class RedisSchedules implements ScheduleRecords {
  readonly #queue: Queue

  constructor (queue: Queue) {
    this.#queue = queue
  }

  async prepare (): Promise<void> {}

  async #run (lua: string, args: readonly string[]): Promise<unknown> {
    const run = await defineScript(await clientOf(this.#queue), lua, 1)
    return run([this.#queue.toKey(KEY), ...args])
  }

  async read (ids: readonly string[] | null): Promise<{ time: number, texts: Map<string, string> }> {
    const [time, found] = await this.#run(READ, ids === null ? ['all'] : ['these', ...ids]) as [number, string[]]
    const texts = new Map<string, string>()
    for (let i = 0; i < found.length; i += 2) texts.set(found[i]!, found[i + 1]!)
    return { time, texts }
  }

  async swap (id: string, before: string | null, after: string | null): Promise<boolean> {
    return await this.#run(SWAP, [id, before ?? '', after ?? '']) === 1
  }
}
