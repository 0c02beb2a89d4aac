import type { Queue } from 'bullmq'
import { clientOf, defineScript } from './script'

/** Asks for two keys of the queue, and changes nothing. */
const PROBE = "return redis.call('EXISTS', KEYS[1], KEYS[2])"

/** Redis' codes for a command whose keys are on another node, or on several: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/. */
const ELSEWHERE = /^(?:MOVED|CROSSSLOT)/

/** Rejects where the server is a node of a cluster, and the client does not know the others. */
export async function checkNode (queue: Queue): Promise<void> {
  const probe = await defineScript(await clientOf(queue), PROBE, 2)
  try {
    await probe([queue.keys.wait, queue.keys.active])
  } catch (cause) {
    const { message } = cause as Error
    if (!ELSEWHERE.test(message)) throw cause
    throw new Error(`a node of a Redis Cluster (${message}): \`connection\` must be a ready Cluster, and \`prefix\` have a part in braces`, { cause })
  }
}
