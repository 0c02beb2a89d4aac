import { createHash } from 'node:crypto'
import type { IRedisClient, Queue } from 'bullmq'
import { nextTurn } from '../../../shared/timers'

/** Runs a script, with its keys and then its arguments. */
export type RunScript = (args: unknown[]) => Promise<unknown>

/** The client of a queue on Redis: BullMQ's documented way to Redis itself. */
export async function clientOf (queue: Queue): Promise<IRedisClient> {
  return queue.getBackend().client
}

/** Makes a Lua script a command of a client. Its name is made of its text: other programs may use the same client. */
export async function defineScript (client: IRedisClient, lua: string, numberOfKeys: number): Promise<RunScript> {
  const name = `fastify-background-tasks:${numberOfKeys}:${createHash('sha1').update(lua).digest('hex')}`
  client.defineCommand(name, { lua, numberOfKeys })
  // With `enableAutoPipelining` a pipeline may be open, until this turn ends, that knows only the commands of when it was opened.
  await nextTurn()
  return args => client.runCommand(name, args)
}
