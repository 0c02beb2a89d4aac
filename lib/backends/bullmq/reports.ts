import type { Queue } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import type { LogOf, StoredSchedule } from '../../../types/backend'
import { reasonOf } from '../../shared/show'
import { logChanged, logRemoved, logSkipped } from '../schedule-log'
import type { Secrets } from '../secrets'
import { Troubles } from '../troubles'
import { type JobData, loggedTask, requestIdOf, type TaskJob } from './jobs'

/** The log lines of a backend: about its server, and about tasks of which no running attempt tells. Made with the backend. */
export class Reports {
  readonly #name: string
  readonly #secrets: Secrets
  readonly #troubles = new Troubles()
  #log!: FastifyBaseLogger
  #logOf!: LogOf

  constructor (name: string, secrets: Secrets) {
    this.#name = name
    this.#secrets = secrets
  }

  begin (log: FastifyBaseLogger, logOf: LogOf): void {
    this.#log = log
    this.#logOf = logOf
  }

  redact (error: unknown): void {
    this.#secrets.redact(error)
  }

  /** A server that is away or full, or an error of BullMQ's own. */
  trouble (err: Error): void {
    this.redact(err)
    if (this.#troubles.isNew(String(reasonOf(err)))) this.#log.warn({ err }, `${this.#name} is in trouble`)
  }

  writer (kind: string, version: string): void {
    this.#log.debug({ writer: kind, bullmq: version }, `${this.#name}: tasks are stored by ${kind === 'direct' ? 'this package\'s own commands' : 'BullMQ\'s public calls'}`)
  }

  crashed (job: TaskJob | undefined, err: Error): void {
    this.#of(job).error({ err, task: loggedTask(job) }, 'background task failed: too many workers went away with it')
  }

  unusable (job: TaskJob, err: Error): void {
    this.#of(job).error({ err, task: loggedTask(job) }, 'background task failed: what is stored of it cannot be used')
  }

  notStored (part: 'result' | 'progress', job: TaskJob, err: unknown): void {
    this.redact(err)
    this.#of(job).warn({ err, task: loggedTask(job) }, `${this.#name}: the ${part} of a background task could not be stored`)
  }

  /** This worker lost a task. Seen when its lock is to be renewed, and again when it ends. */
  lost (queue: Queue<JobData>, id: string): void {
    if (this.#troubles.isNew(`lost ${id}`)) this.#about(queue, id, `${this.#name}: this worker gave no sign of life for too long, and a background task of it is handed out again`)
  }

  /** Another worker lost a task. */
  stalled (queue: Queue<JobData>, id: string): void {
    this.#about(queue, id, `${this.#name}: a worker went away with a background task, which is handed out again`)
  }

  skipped (schedule: StoredSchedule, due: number, lastId: string): void {
    logSkipped(this.#log, schedule, due, lastId)
  }

  scheduleChanged (id: string, next: number | null): void {
    logChanged(this.#log, id, next)
  }

  scheduleRemoved (id: string, task: string): void {
    logRemoved(this.#log, id, task)
  }

  /** The queue says more about a task, if it answers. */
  async #about (queue: Queue<JobData>, id: string, message: string): Promise<void> {
    const job = await queue.getJob(id).catch(() => undefined)
    this.#of(job).warn({ task: { id, ...loggedTask(job) } }, message)
  }

  #of (job: TaskJob | undefined): FastifyBaseLogger {
    return this.#logOf(requestIdOf(job))
  }
}
