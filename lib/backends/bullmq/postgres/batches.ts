import type { JobJson } from 'bullmq'
import { grouped, type GroupLimits } from '../groups'

/** Postgres takes any number of jobs in one statement; its text is one string. */
const LIMITS: GroupLimits = { jobs: Infinity, chars: 8_000_000 }

/**
 * Postgres' codes of errors that may be about the data: classes 22 and 23, limits and memory that are exceeded (54, 53200), and internal
 * errors, a text that is too long for instance (XX). https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const DATA_ERROR = /^(?:2[23]|54|53200|XX)/

/** Whether Postgres may have refused something for its data. */
export function isAboutData (error: unknown): boolean {
  return DATA_ERROR.test(String((error as { code?: unknown }).code))
}

/** Stores all jobs or none, and resolves with their ids. */
export type Put = (jobs: JobJson[]) => Promise<string[]>

/**
 * Stores batches in Postgres, in groups. A group that is refused for its data is tried again in halves, until the batch that is at fault
 * is refused alone.
 * @param failed told of an error that is not the server's answer: a request may have stopped waiting for it
 */
export async function addToPostgres (batches: JobJson[][], put: Put, failed: (error: Error) => void): Promise<Array<string[] | Error>> {
  const add = async (group: JobJson[][]): Promise<Array<string[] | Error>> => {
    try {
      const ids = await put(group.flat())
      return group.map(({ length }) => ids.splice(0, length))
    } catch (error) {
      if ((error as { code?: unknown }).code === undefined) failed(error as Error)
      if (group.length === 1 || !isAboutData(error)) return group.map(() => error as Error)
      const half = group.length >> 1
      return (await Promise.all([add(group.slice(0, half)), add(group.slice(half))])).flat()
    }
  }
  return (await Promise.all(grouped(batches, LIMITS).map(add))).flat()
}
