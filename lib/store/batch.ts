import type { StoredTask } from '../../types/backend'
import { setDeadline } from '../shared/deadline'

/** Tasks of one request that wait to be stored. Made by the store; ends when stored or refused. */
export class Batch {
  readonly tasks: StoredTask[]
  readonly stored: Promise<string[]>
  #clearDeadline: (() => void) | null = null
  #over = false
  #resolve!: (ids: string[]) => void
  #reject!: (error: unknown) => void

  constructor (tasks: StoredTask[]) {
    this.tasks = tasks
    this.stored = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  /** Starts the time limit of the batch. */
  arm (ms: number, tooLate: () => void): void {
    this.#clearDeadline = setDeadline(ms, tooLate)
  }

  /** Returns `false` if the batch was refused before. */
  resolve (ids: string[]): boolean {
    if (this.#over) return false
    this.#end()
    this.#resolve(ids)
    return true
  }

  reject (error: unknown): void {
    this.#end()
    this.#reject(error)
  }

  #end (): void {
    this.#over = true
    this.#clearDeadline?.()
  }
}
