import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, StoredTask, TaskBackend } from './backends/backend'
import type { Definition } from './define-task'
import { FST_BGT_BACKEND_FAILED, FST_BGT_MISSING_PACKAGE, FST_BGT_STORE_FAILED } from './errors'
import type { Line } from './line'
import { describe } from './report'
import type { Runtime } from './runtime'
import { COLLECTING, DROPPED, PENDING, STORED, type Task } from './task'
import type { TaskSpec } from './task-options'

/** Tasks of one request that wait to be stored. */
interface Batch {
  tasks: StoredTask[]
  /** Lets its time begin. */
  arm: () => void
  resolve: (ids: string[]) => void
  reject: (error: unknown) => void
}

/**
 * Group commit: while one write is under way, the batches of other requests gather, and the next write takes them all.
 * So a request waits for two round trips at the most, however many come at once.
 */
export class Store {
  readonly #backend: TaskBackend
  readonly #timeout: number
  #waiting: Batch[] = []
  #writing = false
  #open = false
  #log: FastifyBaseLogger | null = null

  constructor (backend: TaskBackend, timeout: number) {
    this.#backend = backend
    this.#timeout = timeout
  }

  /** Connects the backend. What is added before waits until then. */
  async open (log: FastifyBaseLogger): Promise<void> {
    this.#log = log
    try {
      await within(this.#timeout, this.#backend.start(log))
    } catch (cause) {
      if (cause instanceof FST_BGT_MISSING_PACKAGE) throw cause
      throw new FST_BGT_BACKEND_FAILED(this.#backend.name, cause instanceof Error ? cause.message : cause, { cause })
    }
    this.#open = true
    for (const batch of this.#waiting) batch.arm()
    this.#schedule()
  }

  /**
   * Resolves, when the tasks are stored, with the id of each. A batch is stored whole or refused whole.
   * @throws FST_BGT_STORE_FAILED after `storeTimeout` at the latest
   */
  add (tasks: StoredTask[]): Promise<string[]> {
    return new Promise((resolve, reject) => {
      const refuse = (cause: unknown) => {
        clearTimeout(timer)
        const index = this.#waiting.indexOf(batch)
        // One that is not being written yet must not be written after it was refused.
        if (index !== -1) this.#waiting.splice(index, 1)
        reject(new FST_BGT_STORE_FAILED(this.#backend.name, cause instanceof Error ? cause.message : cause, { cause }))
      }
      let timer: NodeJS.Timeout | undefined
      const batch = {
        tasks,
        arm: () => { timer = setTimeout(() => refuse(new Error(`no answer within ${this.#timeout} ms`)), this.#timeout) },
        resolve: (ids: string[]) => {
          clearTimeout(timer)
          resolve(ids)
        },
        reject: refuse
      }
      this.#waiting.push(batch)
      if (!this.#open) return
      batch.arm()
      this.#schedule()
    })
  }

  /** Has the backend hand out its tasks. */
  async work (concurrency: number, deliver: Deliver): Promise<void> {
    await this.#backend.work(concurrency, deliver)
  }

  /** Has it hand out no more. What is still to be stored is stored. */
  async pause (): Promise<void> {
    if (this.#open) await this.#try(this.#backend.pause(), this.#timeout)
  }

  /** Disconnects the backend; within so many ms, because some servers do not answer. */
  async close (ms: number): Promise<void> {
    if (this.#open) await this.#try(this.#backend.close(), ms)
  }

  async #try (action: Promise<void>, ms: number): Promise<void> {
    try {
      await within(ms, action)
    } catch (err) {
      this.#log?.error({ err }, `${this.#backend.name} could not be closed`)
    }
  }

  /** The requests of one turn of the event loop share the first write already. */
  #schedule (): void {
    if (this.#writing || this.#waiting.length === 0) return
    this.#writing = true
    setImmediate(() => this.#write())
  }

  async #write (): Promise<void> {
    while (this.#waiting.length !== 0) {
      const batches = this.#waiting
      this.#waiting = []
      try {
        // One that never answers must not keep the next write waiting for ever.
        const ids = await within(this.#timeout, this.#backend.store(batches.flatMap(batch => batch.tasks)))
        let from = 0
        for (const { tasks, resolve } of batches) resolve(ids.slice(from, from += tasks.length))
      } catch (error) {
        for (const { reject } of batches) reject(error)
      }
    }
    this.#writing = false
  }
}

/** Rejects when something takes longer than so many ms. */
async function within<T> (ms: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const tooLate = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms)
  })
  try {
    return await Promise.race([promise, tooLate])
  } finally {
    clearTimeout(timer)
  }
}

/** Whether a task goes to the backend. */
export function isDurable (task: Task, runtime: Runtime): boolean {
  return runtime.store !== null && task.spec !== null && task.spec.definition !== null && !task.spec.local
}

/**
 * Hands tasks over to the backend. When that has them they are settled here, as `stored`.
 * @throws FST_BGT_STORE_FAILED: then they are collected, as they were before
 */
export async function handOver (tasks: Task[], runtime: Runtime): Promise<void> {
  const { ledger, report, options } = runtime
  const backend = options.backend as TaskBackend
  for (const task of tasks) {
    ledger.move(task, PENDING)
    task.extra.backend = backend
  }
  let ids: string[]
  try {
    ids = await (runtime.store as Store).add(tasks.map(toStored))
  } catch (error) {
    for (const task of tasks) if (task.status === PENDING) ledger.move(task, COLLECTING)
    throw error
  }
  tasks.forEach((task, index) => {
    const line = task.line
    if (line === null) {
      // Called off, or replaced, while it was on its way.
      backend.cancel(task.id).catch(err => {
        runtime.log.error({ err, task: describe(task) }, 'background task could not be called off in the backend')
      })
    } else if (ids[index] === task.id) {
      line.settle(task, STORED)
    } else {
      report.dropped(task, line, `its dedupe id is taken by task ${ids[index]}`)
      line.settle(task, DROPPED)
    }
  })
}

function toStored (task: Task): StoredTask {
  const { definition, attempts, backoff, delay, timeout, dedupe } = task.spec as TaskSpec
  return {
    id: task.id,
    name: (definition as Definition).name,
    label: task.name,
    payload: task.payload ?? null,
    requestId: (task.line as Line).requestId,
    attempts,
    backoff,
    delay,
    timeout,
    dedupe
  }
}

/** The stream of a reply that will not be sent. */
export function discard (payload: unknown): void {
  const { destroy, cancel } = (payload ?? {}) as { destroy?: () => void, cancel?: () => Promise<void> }
  if (typeof destroy === 'function') destroy.call(payload)
  else if (typeof cancel === 'function') cancel.call(payload).catch(() => {})
}
