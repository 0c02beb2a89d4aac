import type { Queue } from 'bullmq'
import { received } from '../../../shared/show'
import type { JobData, TaskJob } from '../jobs'
import { clientOf } from './script'

/*
 * Jobs in Redis that BullMQ cannot read: it throws when a worker fetches one (6.7), which then has the job until its lock
 * ends, again and again. Postgres checks such fields itself: they are `jsonb`.
 */

/** Fields that BullMQ reads as JSON, whether each has to be an object, and a substitute that BullMQ can read. */
const FIELDS: ReadonlyArray<readonly [name: string, isObject: boolean, substitute: string]> = [
  ['data', false, 'null'],
  ['opts', true, '{}'],
  ['progress', false, '0']
]

/** Whether BullMQ threw an error because it could not read a job. */
export function isUnreadable (error: unknown): boolean {
  return error instanceof SyntaxError || error instanceof TypeError
}

/**
 * Replaces the unreadable fields of all jobs that workers have. BullMQ does not say which job it could not read.
 * @returns the jobs, with their flaws as parts of a message
 */
export async function repairActive (queue: Queue<JobData>): Promise<Array<{ job: TaskJob, flaw: string }>> {
  const client = await clientOf(queue)
  const repaired = []
  for (const id of await queue.getRanges(['active'], 0, -1)) {
    const key = queue.toKey(id)
    const texts = await client.hmget(key, ...FIELDS.map(([name]) => name))
    const broken = FIELDS.flatMap(([name, isObject, substitute], index) => {
      const text = texts[index]
      return !text || isReadable(text, isObject) ? [] : [{ name, text, substitute }]
    })
    if (broken.length === 0) continue
    await client.hset(key, Object.fromEntries(broken.map(({ name, substitute }) => [name, substitute])))
    const job = await queue.getJob(id)
    if (job !== undefined) repaired.push({ job, flaw: broken.map(({ name, text }) => `its '${name}' is ${received(text)}`).join(', ') })
  }
  return repaired
}

function isReadable (text: string, isObject: boolean): boolean {
  try {
    const value: unknown = JSON.parse(text)
    return !isObject || (typeof value === 'object' && value !== null)
  } catch {
    return false
  }
}
