import type { JobJson, Queue } from 'bullmq'
import type { TaskPool } from './postgres/pool'

/** Stores batches of jobs in a queue. Made when the backend starts; it holds nothing that has to be closed. */
export interface JobWriter {
  /** `plain` uses public calls of BullMQ alone, `direct` a script or a statement of this package. */
  readonly kind: 'plain' | 'direct'
  /** Stores each batch whole or not at all. The result has for each the ids of its jobs, or the error that kept it out. */
  add (batches: JobJson[][]): Promise<Array<string[] | Error>>
}

/** The place in which a writer stores jobs. */
export interface Place {
  /** A queue that is ready. */
  readonly queue: Queue
  /** The connections of a queue on Postgres. */
  readonly pool: TaskPool | null
  /** Told of an error for which no request waits. */
  readonly failed: (error: Error) => void
}
