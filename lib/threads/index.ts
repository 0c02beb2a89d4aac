import { AsyncResource } from 'node:async_hooks'
import type { Report } from '../observe/report'
import type { Attempt } from '../run/attempt'
import type { ThreadSettings } from '../run/settings'
import type { ThreadRunner } from '../run/thread-runner'
import { FST_BGT_OVERLOADED } from '../shared/errors'
import type { Definition } from '../task/spec'
import type { Task } from '../task/task'
import { ThreadAttempt, threadDied } from './attempt'
import { ThreadLease } from './lease'
import { ThreadPool } from './pool'
import { decodeThrown, type Thrown } from './thrown'

/**
 * The threads of one application; made at registration, closed at its close. Attempts wait here for a thread, not in piscina's queue:
 * see docs/design.md, "Worker threads".
 */
export class Threads implements ThreadRunner {
  readonly #options: ThreadSettings
  readonly #tasks: ReadonlyMap<string, boolean>
  readonly #report: Report
  /** The async context of the registration. */
  readonly #context = new AsyncResource('fastify-background-tasks.threads')
  /** Made at first use. */
  #pool: ThreadPool | null = null
  /** Attempts without a thread, in the order in which they get one. */
  #waiting = new Set<ThreadAttempt>()
  readonly #leases = new Set<ThreadLease>()
  /** Tasks that were added here and have not reached a thread yet. */
  readonly #queued = new Set<Task>()
  /** Attempts of tasks that are not from the backend, with a thread or waiting for one. */
  #own = 0
  /** Called when a thread fails with no task on it. */
  #onThreadError: ((error: Error) => void) | null = null

  /** @param tasks the tasks that a handler on a thread may add, each with whether its payload is cloned */
  constructor (options: ThreadSettings, tasks: ReadonlyMap<string, boolean>, report: Report) {
    this.#options = options
    this.#tasks = tasks
    this.#report = report
  }

  /**
   * Checks that one more task may wait for a thread.
   * @param replaced the task, if any, whose place the new one takes
   * @throws FST_BGT_OVERLOADED at `maxQueue`
   */
  assertRoom (replaced: Task | null): void {
    const { maxQueue } = this.#options
    if (this.#queued.size >= maxQueue + (replaced !== null && this.#queued.has(replaced) ? 1 : 0)) throw new FST_BGT_OVERLOADED(this.#queued.size, 'waiting for a thread', `threads.maxQueue is ${maxQueue}`)
  }

  /** Counts a task until it reaches a thread or settles. */
  accept (task: Task): void {
    this.#queued.add(task)
    task.settled().then(() => this.#queued.delete(task))
  }

  /** Stops counting a task that has been replaced. */
  forget (task: Task): void {
    this.#queued.delete(task)
  }

  /**
   * Loads the module of each task in a thread, so that a broken one fails the start and not an `add`.
   * @throws FST_BGT_BUNDLED, FST_BGT_MISSING_PACKAGE, FST_BGT_INVALID_MODULE, FST_BGT_THREAD_DIED
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
    this.#onThreadError = error => controller.abort(error)
    let thrown: Thrown | null
    try {
      thrown = await pool.check({ name, file }, controller.signal)
    } catch (error) {
      throw threadDied(name, controller.signal.aborted ? controller.signal.reason : error)
    } finally {
      this.#onThreadError = null
    }
    if (thrown !== null) throw decodeThrown(thrown)
  }

  /** Runs an attempt as soon as a thread is free. Rejects with the abort reason if the attempt is aborted before that. */
  run (attempt: Attempt, file: string): Promise<unknown> {
    const result = this.#enqueue(attempt, file)
    if (attempt.line.delivery !== null) return result
    this.#own++
    return result.finally(() => { this.#own-- })
  }

  /** The number of threads that tasks of the backend may use. */
  get freeForBackend (): number {
    return Math.max(this.#options.max - this.#own, 0)
  }

  #enqueue (attempt: Attempt, file: string): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const pool = this.#start()
      const waiting = new ThreadAttempt(attempt, this.#report, file, resolve, reject, attempt => { this.#waiting.delete(attempt) })
      if (waiting.aborted) return
      this.#waiting.add(waiting)
      // Outside the attempt's async context: the lease goes on to run attempts of other requests.
      if (this.#leases.size < this.#options.max) this.#context.runInAsyncScope(() => { this.#useThread(pool) })
    })
  }

  /** Borrows a thread from the pool, and runs waiting attempts on it until none is left. */
  async #useThread (pool: ThreadPool): Promise<void> {
    const lease = new ThreadLease(pool, this.#report, attempt => {
      attempt.wait()
      this.#waiting = new Set([attempt, ...this.#waiting])
    })
    this.#leases.add(lease)
    let stays = true
    for (let next = this.#take(); next !== null; next = stays ? this.#take() : null) {
      stays = await lease.runAttempt(next, this.#waiting.size !== 0)
    }
    // The attempts that this thread was kept for have been aborted, or have another thread.
    if (stays) await lease.returnThread()
    this.#leases.delete(lease)
    if (this.#waiting.size !== 0) this.#useThread(pool)
  }

  #take (): ThreadAttempt | null {
    const [attempt = null] = this.#waiting
    if (attempt === null) return null
    this.#waiting.delete(attempt)
    this.#queued.delete(attempt.task)
    return attempt
  }

  #start (): ThreadPool {
    this.#pool ??= this.#context.runInAsyncScope(() => new ThreadPool(this.#options, this.#tasks, this.#context, error => {
      this.#report.threadEnded(error)
      this.#onThreadError?.(error)
      for (const lease of this.#leases) lease.threadFailed(error)
    }))
    return this.#pool
  }

  /** Terminates all threads, whatever they do. */
  async close (): Promise<void> {
    await this.#pool?.close()
  }
}
