import type { Job, Queue } from 'bullmq'
import { retried } from '../retried'
import { clientOf, defineScript } from './script'

/** Milliseconds after which a dedupe id is free again if this process ends before the job waits. */
const LEASE_MS = 60_000

/**
 * Takes a failed job's dedupe id, and clears the failure of too many crashes. Returns 0 where the job has not failed, or another one has
 * the id.
 */
const TAKE = `
local jobKey, failedKey, dedupeKey = unpack(KEYS)
if not redis.call('ZSCORE', failedKey, ARGV[1]) then return 0 end
if dedupeKey and not redis.call('SET', dedupeKey, ARGV[1], 'PX', ${LEASE_MS}, 'NX') then return 0 end
redis.call('HDEL', jobKey, 'defa', 'stc')
return 1
`

/** Keeps the dedupe id until the job has settled, or frees it: only while it is still this job's. */
const HOLD = `
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call(ARGV[2], KEYS[1]) end
`

/**
 * Has a failed job run again, with all its attempts. Resolves with `false` if it has not failed, or its dedupe id is taken. BullMQ's own
 * `retry` (6.7) leaves the dedupe id free, and keeps the failure of too many crashes, with which the job would fail again.
 */
export async function retryFailed (queue: Queue, job: Job): Promise<boolean> {
  const id = job.id as string
  const dedupeKeys = job.deduplicationId === undefined ? [] : [queue.toKey(`de:${job.deduplicationId}`)]
  const client = await clientOf(queue)
  const take = await defineScript(client, TAKE, 2 + dedupeKeys.length)
  if (await take([queue.toKey(id), queue.toKey('failed'), ...dedupeKeys, id]) === 0) return false
  const waits = await retried(job)
  if (dedupeKeys.length !== 0) {
    const hold = await defineScript(client, HOLD, 1)
    await hold([...dedupeKeys, id, waits ? 'PERSIST' : 'DEL'])
  }
  return waits
}

/** Removes a failed job, and no job that is run again at the same time. A failed job has no dedupe id any more. */
const REMOVE = `
local jobKey, failedKey = unpack(KEYS)
if redis.call('ZREM', failedKey, ARGV[1]) == 0 then return 0 end
redis.call('DEL', jobKey, jobKey .. ':logs')
return 1
`

/** Removes a failed job. Resolves with `false` if it has not failed. BullMQ's own `remove` takes a job in any state. */
export async function removeFailed (queue: Queue, id: string): Promise<boolean> {
  const remove = await defineScript(await clientOf(queue), REMOVE, 2)
  return await remove([queue.toKey(id), queue.toKey('failed'), id]) === 1
}
