import type { Worker } from 'bullmq'
import { now } from '../../shared/timers'
import type { Intake, TakenTask } from '../intake'
import type { TaskJob } from './jobs'

/** Milliseconds for which a job that needs a thread is put aside, while none is free. */
const ASIDE_MS = 5_000

/** The most jobs that are put aside to reach the jobs behind them. */
const MAX_ASIDE = 100

/**
 * Keeps a worker of BullMQ from holding jobs that cannot begin. The worker fetches as many as its concurrency allows before it runs the
 * first, and emits `active` for each: a job is known here from then until its run has ended. Made with the worker.
 */
export class JobIntake {
  readonly #worker: Worker
  readonly #intake: Intake
  readonly #concurrency: number
  readonly #known = new Set<TaskJob>()
  readonly #admitted = new Set<TaskJob>()
  /** The job that runs alone, or waits to do so. */
  #alone: TaskJob | null = null
  #onAlone: (() => void) | null = null
  /** Jobs that are put aside for want of a thread, each until a time in ms of `now()`. */
  readonly #aside = new Map<TaskJob, number>()
  #paused = false

  constructor (worker: Worker, intake: Intake) {
    this.#worker = worker
    this.#intake = intake
    this.#concurrency = worker.concurrency
    worker.on('active', job => this.#fetched(job))
  }

  #fetched (job: TaskJob): void {
    // BullMQ fails a job that crashed too many workers itself, without running it.
    if (job.deferredFailure !== undefined) return
    this.#known.add(job)
    // Fetched while the worker was being paused: give it back.
    if (this.#paused) return
    const taken = takenOf(job)
    if (this.#alone === null && taken.crashes === 0) {
      if (this.#intake.canBegin(taken)) {
        this.#intake.take(taken)
        this.#admitted.add(job)
        return
      }
      this.#aside.set(job, now() + ASIDE_MS)
    } else {
      this.#alone ??= job
    }
    this.#limit()
  }

  /** Limits the jobs that BullMQ fetches. With a limit of one it fetches none while it has any. */
  #limit (): void {
    this.#worker.concurrency = this.#alone === null && this.#aside.size < MAX_ASIDE ? this.#concurrency : 1
  }

  /**
   * Resolves with `null` if a job may begin, else with the ms after which it is to be handed out again, here or elsewhere. Call
   * {@link ended} after either.
   */
  async delayOf (job: TaskJob): Promise<number | null> {
    if (this.#admitted.has(job)) return null
    if (this.#alone === job) {
      if (this.#known.size > 1) await new Promise<void>(resolve => { this.#onAlone = resolve })
      if (this.#paused) return 0
      this.#intake.take(takenOf(job))
      this.#admitted.add(job)
      return null
    }
    return this.#aside.has(job) ? ASIDE_MS : 0
  }

  ended (job: TaskJob): void {
    const taken = takenOf(job)
    this.#known.delete(job)
    if (this.#admitted.delete(job)) this.#intake.release(taken)
    if (this.#alone === job) this.#alone = null
    if (this.#alone !== null && this.#known.size === 1) this.#onAlone?.()
    this.#bringBack()
    this.#limit()
  }

  /** Promotes a job that was put aside, as soon as a thread is free. */
  async #bringBack (): Promise<void> {
    for (const [job, until] of this.#aside) {
      // A job that is still being put aside is brought back when that is done.
      if (this.#known.has(job)) continue
      const due = now() >= until
      if (!due && !this.#intake.canBegin(takenOf(job))) return
      this.#aside.delete(job)
      // A rejection: another worker may have the job by now.
      if (!due && await job.promote().then(() => true, () => false)) return
    }
  }

  /** Lets no further job begin. */
  pause (): void {
    this.#paused = true
    this.#aside.clear()
    this.#onAlone?.()
  }

  resume (): void {
    this.#paused = false
  }
}

function takenOf ({ name, stalledCounter }: TaskJob): TakenTask {
  return { name, crashes: stalledCounter }
}
