import { directWriter } from './direct'
import type { JobWriter, Place } from './job-writer'

/** The writer of the given kind; `plain` where BullMQ, or its tables, are of a version for which there is no `direct` one. */
export async function chooseWriter (kind: JobWriter['kind'], plain: JobWriter, place: Place): Promise<JobWriter> {
  if (kind === 'direct') return await directWriter(plain, place) ?? plain
  return plain
}
