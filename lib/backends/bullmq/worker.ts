import type { Queue, Worker } from 'bullmq'
import type { Deliver, Delivery, ThreadRoom } from '../../../types/backend'
import { Intake } from '../intake'
import { Progress } from '../progress'
import { unusable } from '../stored-task'
import { MAX_BLOCK_S } from './connection'
import { JobIntake } from './intake'
import { CANCELLED, flawOfJob, type JobData, storedFailure, storedTask, storedValue, type TaskJob } from './jobs'
import type { ResolvedOptions } from './options'
import { ANY_TOKEN, onMoveToFailed, setBlockTimeout, stopRenewingLocks } from './private'
import { isUnreadable } from './redis/unreadable'
import type { Reports } from './reports'
import type { BullMQ, Server } from './server'

/** Milliseconds after an error of its server before a worker asks for a job again. */
const RETRY_DELAY_MS = 1_000

/** The parts of its backend that a worker uses. */
export interface WorkerContext {
  readonly bullmq: BullMQ
  readonly server: Server
  readonly queue: Queue<JobData>
  readonly options: ResolvedOptions
  readonly reports: Reports
}

/** Runs the jobs of a queue by a worker of BullMQ. Made when the backend is to work, closed with the backend. */
export class TaskWorker {
  readonly #context: WorkerContext
  readonly #deliver: Deliver
  readonly #worker: Worker<JobData>
  readonly #intake: JobIntake
  /** Errors that say again what `lockRenewalFailed` has just said. */
  #repeatedErrors = 0

  constructor (context: WorkerContext, silenceMs: number, concurrency: number, deliver: Deliver, threads: ThreadRoom) {
    const { server, queue, reports, options: { lockDuration, stalledInterval, maxCrashes } } = context
    this.#context = context
    this.#deliver = deliver
    this.#worker = server.openWorker(
      // Three parameters: BullMQ makes the signal only for a processor that takes it.
      (job, token, signal) => this.#process(job, token as string, signal as AbortSignal),
      { concurrency, lockDuration, stalledInterval, maxStalledCount: maxCrashes, runRetryDelay: RETRY_DELAY_MS, drainDelay: MAX_BLOCK_S },
      silenceMs
    )
    this.#intake = new JobIntake(this.#worker, new Intake(concurrency, threads))
    setBlockTimeout(this.#worker, MAX_BLOCK_S)
    this.#worker.on('error', error => this.#onError(error))
    this.#worker.on('lockRenewalFailed', ids => this.#onLocksLost(ids))
    this.#worker.on('stalled', id => reports.stalled(queue, id))
    // An attempt that fails is reported where it ran. BullMQ fails this job itself, when it comes to a worker once more.
    this.#worker.on('failed', (job, error) => { if (job?.deferredFailure !== undefined) reports.crashed(job, error) })
  }

  async ready (): Promise<void> {
    await this.#worker.waitUntilReady()
  }

  /** Begins what has to be done regularly beside a worker. */
  attend (): void {
    this.#context.server.attend(this.#context.queue, this.#worker)
  }

  /** BullMQ emits an error for each of these ids in the same turn, with no other sign of which job it is about than its text. */
  #onLocksLost (ids: string[]): void {
    for (const id of ids) this.#lost(id)
    this.#repeatedErrors = ids.length
    queueMicrotask(() => { this.#repeatedErrors = 0 })
  }

  #onError (error: Error): void {
    if (this.#repeatedErrors > 0) this.#repeatedErrors--
    else if (isUnreadable(error)) this.#failUnreadable(error)
    else if (!this.#isLockLost(error)) this.#context.reports.trouble(error)
  }

  #lost (id: string): void {
    this.#context.reports.lost(this.#context.queue, id)
  }

  /** Whether BullMQ refused the end of a job because another worker has it. Whichever call failed tells of the job itself. */
  #isLockLost (error: unknown): boolean {
    const { ErrorCode } = this.#context.bullmq
    const { code } = error as { code?: unknown }
    return code === ErrorCode.JobLockNotExist || code === ErrorCode.JobLockMismatch
  }

  /** A job that BullMQ could not read is this worker's until its lock ends. */
  async #failUnreadable (error: Error): Promise<void> {
    const { server, queue, reports } = this.#context
    try {
      const repaired = await server.repair(queue)
      if (repaired.length === 0) reports.trouble(error)
      for (const { job, flaw } of repaired) await job.moveToFailed(this.#unusable(job, flaw), ANY_TOKEN)
    } catch (error) {
      reports.trouble(error as Error)
    }
  }

  /** Reports a job that is no task. Returns the error for it. */
  #unusable (job: TaskJob, flaw: string): Error {
    const error = new this.#context.bullmq.UnrecoverableError(unusable(flaw))
    this.#context.reports.unusable(job, error)
    return error
  }

  async #process (job: TaskJob, token: string, signal: AbortSignal): Promise<unknown> {
    try {
      const flaw = flawOfJob(job)
      if (flaw !== null) throw this.#unusable(job, flaw)
      const delay = await this.#intake.delayOf(job)
      return await (delay === null ? this.#run(job, token, signal) : this.#giveBack(job, token, delay))
    } finally {
      this.#intake.ended(job)
    }
  }

  async #run (job: TaskJob, token: string, signal: AbortSignal): Promise<unknown> {
    const { bullmq: { UnrecoverableError }, server: { isJsonb } } = this.#context
    const progress = this.#progress(job)
    const end = await this.#deliver(delivery(job, signal, progress))
    await progress.end()
    this.#guardEnd(job, end.state === 'completed')
    switch (end.state) {
      case 'completed': return this.#storedResult(job, end.result)
      case 'failed': throw storedFailure(end.error, UnrecoverableError, isJsonb)
      case 'cancelled': throw new UnrecoverableError(CANCELLED)
    }
    return this.#giveBack(job, token, end.delay)
  }

  /**
   * Reports a job whose end BullMQ refused. A completed job must not fail because its end could not be stored: it stays with this
   * worker until its lock ends, and is handed out again.
   */
  #guardEnd (job: TaskJob, isCompleted: boolean): void {
    onMoveToFailed(job, async (original, error, token, fetchNext) => {
      try {
        if (!isCompleted) return await original(error, token, fetchNext)
        if (!this.#context.server.isAboutData(error)) throw error
        this.#context.reports.notStored('result', job, error)
        return await job.moveToCompleted(undefined as never, token, fetchNext)
      } catch (error) {
        if (this.#isLockLost(error)) this.#lost(job.id as string)
        throw error
      }
    })
  }

  /** For another worker, or for this one after so many ms. Rejects, as BullMQ asks for. */
  async #giveBack (job: TaskJob, token: string, delay: number): Promise<never> {
    try {
      if (delay === 0) await job.moveToWait(token)
      else await job.moveToDelayed(Date.now() + delay, token)
    } catch (error) {
      // The job stays with this worker until its lock ends.
      if (this.#isLockLost(error)) this.#lost(job.id as string)
      else this.#onError(error as Error)
    }
    const { DelayedError, WaitingError } = this.#context.bullmq
    throw delay === 0 ? new WaitingError() : new DelayedError()
  }

  /** A result that cannot be stored must not make a failure of a task that has done its work. */
  async #storedResult (job: TaskJob, result: unknown): Promise<unknown> {
    try {
      const stored = storedValue(result, this.#context.server.isJsonb)
      if ((stored === null) !== (job.data.returnedNull === true)) {
        await job.updateData({ ...job.data, returnedNull: stored === null })
      }
      return stored
    } catch (error) {
      this.#context.reports.notStored('result', job, error)
      return undefined
    }
  }

  #progress (job: TaskJob): Progress {
    const { server: { isJsonb }, reports } = this.#context
    return new Progress(value => job.updateProgress(storedValue(value, isJsonb) as number), error => reports.notStored('progress', job, error))
  }

  async pause (): Promise<void> {
    this.#intake.pause()
    await this.#worker.pause(true)
  }

  async resume (): Promise<void> {
    this.#intake.resume()
    await this.#worker.resume()
  }

  /** Aborts the signal of a job that runs here. Returns `false` if it does not. */
  cancel (id: string): boolean {
    return this.#worker.cancelJob(id)
  }

  async close (): Promise<void> {
    await this.#worker.close()
  }

  /** Cuts the connections, also of a server that does not answer. */
  disconnect (): Promise<unknown> {
    return Promise.allSettled([stopRenewingLocks(this.#worker), this.#context.server.disconnect(null, this.#worker)])
  }
}

function delivery (job: TaskJob, signal: AbortSignal, progress: Progress): Delivery {
  return {
    task: storedTask(job),
    // `attemptsMade` counts failed attempts only: none that a crash cut off, none that was given back.
    attempt: job.attemptsMade + 1,
    signal,
    progress: value => progress.set(value)
  }
}
