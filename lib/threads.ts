import { AsyncResource } from 'node:async_hooks'
import type { Attempt } from './attempt'
import type { Definition } from './define-task'
import { overloaded } from './ledger'
import type { Report } from './report'
import type { Task } from './task'
import { ThreadAttempt, threadDied } from './thread-attempt'
import { ThreadLease } from './thread-lease'
import type { ResolvedThreadOptions } from './thread-options'
import { ThreadPool } from './thread-pool'
import { decodeThrown, type Thrown } from './thrown'

/**
 * The threads of one application. Attempts wait here for a free one, and not in the pool: what is in the pool's own queue
 * when a thread dies stays there until something else is added.
 */
export class Threads {
  readonly #options: ResolvedThreadOptions
  readonly #report: Report
  /** The plugin's own, made at its registration. */
  readonly #context = new AsyncResource('fastify-background-tasks.threads')
  /** Made at first use. */
  #pool: ThreadPool | null = null
  /** In the order in which they get one. */
  #waiting = new Set<ThreadAttempt>()
  readonly #leases = new Set<ThreadLease>()
  /** Tasks that were added here and have not come to a thread yet. */
  readonly #queued = new Set<Task>()
  /** A thread has failed with no task on it. */
  #onError: ((error: Error) => void) | null = null

  constructor (options: ResolvedThreadOptions, report: Report) {
    this.#options = options
    this.#report = report
  }

  /**
   * @throws FST_BGT_OVERLOADED at `maxQueue`
   */
  admit (): void {
    const { maxQueue } = this.#options
    if (this.#queued.size >= maxQueue) throw overloaded(this.#queued.size, 'waiting for a thread', `threads.maxQueue is ${maxQueue}`)
  }

  /** How many attempts wait for a thread. */
  get waiting (): number {
    return this.#waiting.size
  }

  /** Counts a task until it comes to a thread, or is settled. */
  accept (task: Task): void {
    this.#queued.add(task)
    task.settled().then(() => this.#queued.delete(task))
  }

  /**
   * Sees to it that tasks can run when they are added, by loading the module of each in a thread.
   * @throws FST_BGT_MISSING_PACKAGE, FST_BGT_INVALID_MODULE, FST_BGT_THREAD_DIED
   */
  async check (definitions: readonly Definition[]): Promise<void> {
    try {
      for (const definition of definitions) await this.#check(this.#start(), definition)
    } catch (error) {
      await this.close()
      throw error
    }
  }

  async #check (pool: ThreadPool, { name, file }: Definition): Promise<void> {
    const controller = new AbortController()
    this.#onError = error => controller.abort(error)
    let thrown: Thrown | null
    try {
      thrown = await pool.check({ name, file }, controller.signal)
    } catch (error) {
      throw threadDied(name, controller.signal.aborted ? controller.signal.reason : error)
    } finally {
      this.#onError = null
    }
    if (thrown !== null) throw decodeThrown(thrown)
  }

  /** Runs an attempt as soon as a thread is free. Rejects with what it is given up for before that. */
  run (attempt: Attempt, file: string): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const pool = this.#start()
      const waiting = new ThreadAttempt(attempt, file, resolve, reject, attempt => { this.#waiting.delete(attempt) })
      if (waiting.aborted) return
      this.#waiting.add(waiting)
      // In nobody's async context, since those of others will follow.
      if (this.#leases.size < this.#options.max) this.#context.runInAsyncScope(() => { this.#lend(pool) })
    })
  }

  /** Lets attempts run on a thread of the pool, as long as any wait. */
  async #lend (pool: ThreadPool): Promise<void> {
    const lease = new ThreadLease(pool, this.#report, attempt => {
      attempt.waits()
      this.#waiting = new Set([attempt, ...this.#waiting])
    })
    this.#leases.add(lease)
    let stays = true
    for (let next = this.#take(); next !== null; next = stays ? this.#take() : null) {
      stays = await lease.run(next, this.#waiting.size !== 0)
    }
    // Those that waited have been given up meanwhile, or have got another thread.
    if (stays) await lease.giveBack()
    this.#leases.delete(lease)
    if (this.#waiting.size !== 0) this.#lend(pool)
  }

  #take (): ThreadAttempt | null {
    const [attempt = null] = this.#waiting
    if (attempt === null) return null
    this.#waiting.delete(attempt)
    this.#queued.delete(attempt.task)
    return attempt
  }

  #start (): ThreadPool {
    this.#pool ??= this.#context.runInAsyncScope(() => new ThreadPool(this.#options, this.#context, error => {
      this.#report.threadEnded(error)
      this.#onError?.(error)
      for (const lease of this.#leases) lease.threadFailed(error)
    }))
    return this.#pool
  }

  /** Ends all threads, whatever they do. */
  async close (): Promise<void> {
    await this.#pool?.close()
  }
}
