import { AsyncResource } from 'node:async_hooks'
import type { Attempt } from './attempt'
import type { Definition } from './define-task'
import { overloaded } from './ledger'
import type { Report } from './report'
import type { Task } from './task'
import { ThreadAttempt, threadDied } from './thread-attempt'
import type { ResolvedThreadOptions } from './thread-options'
import { ThreadPool } from './thread-pool'
import { decodeThrown, type Thrown } from './thrown'

/** An attempt that waits for a thread. */
interface Waiting {
  readonly attempt: ThreadAttempt
  readonly task: Task
  readonly start: () => void
}

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
  readonly #waiting = new Set<Waiting>()
  readonly #running = new Set<ThreadAttempt>()
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
    const { task } = attempt
    return new Promise((resolve, reject) => {
      const threadAttempt = new ThreadAttempt(attempt, file)
      const start = () => {
        attempt.waits = false
        // In the attempt's context, whoever makes room for it: its trace goes on in the thread, and what that logs belongs there.
        resolve(threadAttempt.runInAsyncScope(() => this.#execute(threadAttempt)))
      }
      const waiting = { attempt: threadAttempt, task, start }
      if (threadAttempt.aborted) return reject(threadAttempt.reason)
      this.#waiting.add(waiting)
      attempt.waits = true
      threadAttempt.onAbort = () => {
        this.#waiting.delete(waiting)
        reject(threadAttempt.reason)
      }
      this.#next()
    })
  }

  #next (): void {
    for (const waiting of this.#waiting) {
      if (this.#running.size >= this.#options.max) return
      this.#waiting.delete(waiting)
      this.#queued.delete(waiting.task)
      this.#running.add(waiting.attempt)
      waiting.start()
    }
  }

  async #execute (attempt: ThreadAttempt): Promise<unknown> {
    try {
      return await attempt.run(this.#start())
    } finally {
      this.#running.delete(attempt)
      this.#next()
    }
  }

  #start (): ThreadPool {
    this.#pool ??= this.#context.runInAsyncScope(() => new ThreadPool(this.#options, this.#context, error => {
      this.#report.threadEnded(error)
      this.#onError?.(error)
      for (const attempt of this.#running) attempt.threadFailed(error)
    }))
    return this.#pool
  }

  /** Ends all threads, whatever they do. */
  async close (): Promise<void> {
    await this.#pool?.close()
  }
}
