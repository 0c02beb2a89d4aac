import type { StoredTask, TaskBackend } from './backends/backend'
import type { Definition } from './define-task'
import { FST_BGT_STORE_FAILED } from './errors'
import type { Line } from './line'
import type { Runtime } from './runtime'
import { COLLECTING, DROPPED, PENDING, STORED, type Task } from './task'
import type { TaskSpec } from './task-options'

/** Tasks of one request that wait to be stored. */
interface Batch {
  tasks: StoredTask[]
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

  constructor (backend: TaskBackend, timeout: number) {
    this.#backend = backend
    this.#timeout = timeout
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
      const timer = setTimeout(() => refuse(new Error(`no answer within ${this.#timeout} ms`)), this.#timeout)
      const batch = {
        tasks,
        resolve: (ids: string[]) => {
          clearTimeout(timer)
          resolve(ids)
        },
        reject: refuse
      }
      this.#waiting.push(batch)
      // The requests of one turn of the event loop share the first write already.
      if (!this.#writing) {
        this.#writing = true
        setImmediate(() => this.#write())
      }
    })
  }

  async #write (): Promise<void> {
    while (this.#waiting.length !== 0) {
      const batches = this.#waiting
      this.#waiting = []
      try {
        const ids = await this.#stored(batches.flatMap(batch => batch.tasks))
        let from = 0
        for (const { tasks, resolve } of batches) resolve(ids.slice(from, from += tasks.length))
      } catch (error) {
        for (const { reject } of batches) reject(error)
      }
    }
    this.#writing = false
  }

  /** A backend that never answers must not keep the next write waiting for ever. */
  #stored (tasks: StoredTask[]): Promise<string[]> {
    let timer: NodeJS.Timeout
    const tooLate = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${this.#timeout} ms`)), this.#timeout)
    })
    return Promise.race([this.#backend.store(tasks), tooLate]).finally(() => clearTimeout(timer))
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
      backend.cancel(task.id).catch(error => report.lost(task, error))
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
