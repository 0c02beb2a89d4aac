import type { JobJson, Processor, Queue, Worker, WorkerOptions } from 'bullmq'
import type { JobWriter } from './job-writer'
import type { JobData, TaskJob } from './jobs'
import type { TaskPool } from './postgres/pool'
import type { ScheduleRecords } from './schedule-record'

export type BullMQ = typeof import('bullmq')

/** The options of a worker that are the same for both servers. */
export type CommonWorkerOptions = Omit<WorkerOptions, 'connection' | 'removeOnComplete' | 'removeOnFail'>

/** All that differs between the two servers in which BullMQ keeps jobs. Made with the backend, and opened and ended with it. */
export interface Server {
  /** The backend's name in logs. */
  readonly name: string
  /** The packages to install, as arguments of `npm install`. */
  readonly packages: string
  /** How many writes may be under way at once. */
  readonly writes: number
  /** Whether values are `jsonb`, which has neither NUL nor half of a character. */
  readonly isJsonb: boolean
  /** The connections of the queue, where they are a pool. */
  readonly pool: TaskPool | null
  /** Loads the packages. Rethrows the error of one that is missing. */
  load (): BullMQ
  /** A queue that may not be ready yet, and whose errors are told. Rejects if its tables cannot be made. */
  openQueue (silenceMs: number): Promise<Queue<JobData>>
  /** Rejects where a queue that is ready cannot be used. */
  check (queue: Queue<JobData>): Promise<void>
  plainWriter (queue: Queue<JobData>): JobWriter
  /** Stores a job by a user's connection, in the transaction that is open there; resolves with its id, or that of the job with its dedupe id. */
  addInTransaction? (queue: Queue<JobData>, client: unknown, job: JobJson): Promise<string>
  /** The records of a queue's schedules. */
  schedules (queue: Queue<JobData>): ScheduleRecords
  /** A worker that begins at once. */
  openWorker (process: Processor<JobData>, options: CommonWorkerOptions, silenceMs: number): Worker<JobData>
  /** Begins what has to be done regularly beside a worker, until `stop`. */
  attend (queue: Queue<JobData>, worker: Worker<JobData>): void
  /** Whether the server may have refused something for its data. */
  isAboutData (error: unknown): boolean
  /** Makes jobs readable that workers have and BullMQ cannot read. Resolves with the jobs, and their flaws as parts of a message. */
  repair (queue: Queue<JobData>): Promise<Array<{ job: TaskJob, flaw: string }>>
  /** Removes a job that waits. Resolves with `false` if a worker has begun it meanwhile. */
  removeWaiting (queue: Queue<JobData>, job: TaskJob): Promise<boolean>
  /** Removes a failed job. Resolves with `false` if it has not failed. */
  removeFailed (queue: Queue<JobData>, id: string): Promise<boolean>
  /** Has a failed job run again. Resolves with `false` if it has not failed, or another one has its dedupe id. */
  retry (queue: Queue<JobData>, job: TaskJob): Promise<boolean>
  stop (): void
  /** Ends connections that BullMQ leaves open. */
  end (): Promise<void>
  /** Cuts the connections that are not the user's, whether the server answers or not. */
  disconnect (queue: Queue<JobData> | null, worker: Worker<JobData> | null): Promise<unknown>
}
