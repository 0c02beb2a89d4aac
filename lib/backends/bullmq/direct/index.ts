import { versionOf } from '../private'
import type { JobWriter, Place } from '../job-writer'
import { DirectPostgresWriter } from './postgres'
import { DirectRedisWriter } from './redis'

/*
 * Writers that store jobs without BullMQ, and leave in the server what BullMQ would leave: for what they are faster by, see
 * bench/README.md. To do without them, delete this folder and the two lines of ../choose-writer.ts that name `directWriter`.
 */

/**
 * Versions of BullMQ that were compared with these writers, by the tests `direct-redis` and `direct-postgres`. A patch release may
 * change BullMQ's scripts, so each is named.
 */
const KNOWN_VERSIONS = ['6.4.0', '6.5.1', '6.5.4', '6.7.0']

/**
 * The direct writer for a place, or `null` where its version of BullMQ, or of BullMQ's tables, is not known.
 * @param plain stores the jobs that the direct writer has no way for
 */
export async function directWriter (plain: JobWriter, { queue, pool, failed }: Place): Promise<JobWriter | null> {
  if (!KNOWN_VERSIONS.includes(versionOf(queue))) return null
  return pool === null ? DirectRedisWriter.open(queue, plain) : DirectPostgresWriter.open(queue, pool, plain, failed)
}
