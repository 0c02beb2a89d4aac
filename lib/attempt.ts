import { setDeadline } from './deadline'
import type { Container } from './di-scope'
import { publishAbandon } from './diagnostics'
import { FST_BGT_TIMEOUT } from './errors'
import { asPromise, isThenable, type Executor } from './executor'
import type { Line } from './line'
import { parsePayload } from './payload'
import { disposeScope } from './scope-lease'
import { AttemptContext } from './task-context'
import type { Task } from './task'
import type { TaskSpec } from './task-options'
import type { Threads } from './threads'
import { run } from './traced-run'

/** One attempt of a task that has a time limit, a signal or a context, and so can be given up while it runs. */
export class Attempt {
  readonly task: Task
  readonly line: Line
  readonly #executor: Executor
  readonly spec: TaskSpec
  #controller: AbortController | null = null
  #onStop: ((reason: unknown) => void) | null = null
  #diScope: Container | undefined
  /** It waits for a thread: nothing runs of it. */
  waits = false
  #ended = false
  /** Counted as such. */
  #abandoned = false
  #clearDeadline: (() => void) | null = null
  /** Why the attempt was given up; the function may still run then. */
  #reason: unknown = null

  constructor (executor: Executor, task: Task, line: Line, spec: TaskSpec) {
    this.#executor = executor
    this.task = task
    this.line = line
    this.spec = spec
    task.extra.attempt = this
  }

  start (): void {
    // The time of one that waits for a thread begins when it has it.
    if (this.spec.definition === null || this.spec.definition.file === null) this.begin()
    let result
    try {
      result = this.#call()
      if (isThenable(result)) {
        asPromise(result).then(value => this.#end(true, value), error => this.#end(false, error))
        return
      }
    } catch (error) {
      this.#end(false, error)
      return
    }
    this.#end(true, result)
  }

  /** The function is about to be called, or loaded by its thread: lets the attempt's time begin. */
  begin (): void {
    const { timeout } = this.spec
    if (timeout === 0 || this.#ended || this.#reason !== null) return
    this.#clearDeadline = setDeadline(timeout, () => {
      const { task, line } = this
      const error = new FST_BGT_TIMEOUT(task.name, timeout)
      this.giveUp(error)
      this.#executor.failed(task, line, error)
    })
  }

  #call (): unknown {
    const { task } = this
    const { definition, signal } = this.spec
    if (definition !== null) {
      const { file, handler } = definition
      if (file !== null) return run(task, this.line, () => (this.line.runtime.threads as Threads).run(this, file), [])
      return run(task, this.line, handler, [parsePayload(task.payload), new AttemptContext(this)])
    }
    const args = task.args as unknown[]
    return run(task, this.line, task.fn, signal ? [...args, this.signal] : args)
  }

  #end (fulfilled: boolean, value: unknown): void {
    this.#detach()
    this.#ended = true
    if (this.#diScope !== undefined) disposeScope(this.#diScope, this.line, this.task)
    if (this.#abandoned) this.line.runtime.ledger.ended(this.line)
    if (this.#reason !== null) return
    if (fulfilled) this.#executor.completed(this.task, this.line, value)
    else this.#executor.failed(this.task, this.line, value)
  }

  /** Made when first asked for: most tasks never look at it. */
  get signal (): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      const reason = this.#reason ?? this.line.runtime.closeReason
      if (reason !== null) this.#controller.abort(reason)
    }
    return this.#controller.signal
  }

  /** Calls back when the function is to stop, at once if it is already: for a thread, where a signal here is more than is needed. */
  whenStopped (onStop: (reason: unknown) => void): void {
    const reason = this.#reason ?? this.line.runtime.closeReason
    if (reason === null) this.#onStop = onStop
    else onStop(reason)
  }

  /** A DI scope of the attempt's own. */
  get diScope (): Container | undefined {
    // Nobody would dispose one that is made when the handler has ended.
    if (!this.#ended) this.#diScope ??= this.line.runtime.di?.createScope(this.line)
    return this.#diScope
  }

  /** Notes how far the task has come, where `find` looks for it. */
  progress (value: unknown): void {
    this.task.note('progress', value)
    this.line.progress(value)
  }

  /** Whether no other attempt can follow. */
  get isLast (): boolean {
    return this.task.attempts >= this.spec.attempts
  }

  /** Whether the function has a signal to listen to. */
  get listens (): boolean {
    return this.spec.signal || this.spec.definition !== null
  }

  /** Tells the function to stop. Its attempt goes on: whether it ends, and how, is still for it to say. */
  abort (reason: unknown): void {
    const onStop = this.#onStop
    this.#onStop = null
    onStop?.(reason)
    this.#controller?.abort(reason)
  }

  /** Tells the function to stop and takes no more notice of how it ends, only of when. */
  giveUp (reason: unknown): void {
    this.#detach()
    this.#reason = reason
    if (!this.waits) {
      this.#abandoned = true
      this.line.runtime.ledger.abandon(this.line)
      publishAbandon(this.task, this.line, reason)
    }
    this.abort(reason)
  }

  /** From here on it cannot be called off: abort listeners and `onError`, which may try to, find nothing to cancel. */
  #detach (): void {
    this.#clearDeadline?.()
    if (this.#reason === null) this.task.extra.attempt = null
  }
}
