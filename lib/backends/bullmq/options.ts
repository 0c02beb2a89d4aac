import { type Checks, checkOptions, count, oneOf, period, nonEmptyText, textUpTo } from '../../shared/check-options'
import { FST_BGT_INVALID_OPTION } from '../../shared/errors'
import { received, withheld } from '../../shared/show'
import { RETAIN, type Retention, retention } from '../retention'
import { isCluster, isPostgres } from './connection'

/** The options of `bullmq()`. */
export interface BullmqOptions {
  /**
   * `redis://…`, `rediss://…`, `postgres://…` or `postgresql://…`; options of ioredis, or of node-postgres if they have a
   * `connectionString` or a `database`; or a ready client of ioredis, or a ready `pg.Pool`, which stays the caller's to
   * close.
   */
  connection: string | object
  /**
   * The beginning of all keys in Redis; in Postgres the schema. In a cluster of Redis it has braces, as in `{bull}`, which
   * keep the keys of a queue on one node.
   * @default 'bull', 'bullmq'
   */
  prefix?: string
  /**
   * The name of the queue, at most 255 bytes in UTF-8.
   * @default 'background-tasks'
   */
  queue?: string
  /**
   * Milliseconds after which a worker that gives no sign of life loses its tasks to others. A crash is noticed after this
   * and `stalledInterval`.
   * @default 30_000
   */
  lockDuration?: number
  /**
   * Milliseconds between two searches for such workers.
   * @default 30_000
   */
  stalledInterval?: number
  /**
   * How many workers a task may take down before it has failed. Such ends are not attempts.
   * @default 5
   */
  maxCrashes?: number
  /**
   * How long settled tasks can be found: seconds, and how many. The workers remove the others: in Redis with each task that
   * settles, in Postgres every 15 s.
   * @default { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }
   */
  retain?: { completed?: Retention, failed?: Retention }
  /**
   * How tasks are stored. `direct`: by a script or a statement of this package, which is faster, where it knows BullMQ's version;
   * else, and always with `plain`, by BullMQ's public calls.
   * @default 'direct'
   */
  writer?: 'direct' | 'plain'
}

const DEFAULTS = { queue: 'background-tasks', lockDuration: 30_000, stalledInterval: 30_000, maxCrashes: 5, writer: 'direct' as const }

const CHECKS: Checks<BullmqOptions> = {
  // `isPostgres` checks the rest.
  connection: ['a URL, options or a client', value => value !== '', withheld],
  prefix: nonEmptyText,
  // Postgres has the name and a task's id in one entry of an index.
  queue: textUpTo(255),
  lockDuration: period,
  stalledInterval: period,
  maxCrashes: count,
  retain: retention,
  writer: oneOf('direct', 'plain')
}

/** Options that were checked, with their defaults. `prefix` has none here: BullMQ's differ. */
export type ResolvedOptions = Omit<BullmqOptions, 'retain'> & Required<Pick<BullmqOptions, keyof typeof DEFAULTS>> & { readonly retain: typeof RETAIN }

/** @throws FST_BGT_UNKNOWN_OPTION, FST_BGT_INVALID_OPTION */
export function resolveOptions (options: BullmqOptions): ResolvedOptions {
  const resolved = checkOptions<BullmqOptions, Required<Pick<BullmqOptions, keyof typeof DEFAULTS>>>(options ?? {}, DEFAULTS, CHECKS, { required: ['connection'] })
  const { connection, prefix = '', queue } = resolved
  // Refuses what is no connection.
  if (!isPostgres(connection) && isCluster(connection) && !/\{[^}]+\}/.test(prefix + queue)) {
    throw new FST_BGT_INVALID_OPTION('prefix', "one with a part in braces, such as '{bull}', for a cluster", received(resolved.prefix))
  }
  return { ...resolved, retain: { ...RETAIN, ...resolved.retain } }
}
