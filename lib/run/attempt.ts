import type { TaskHandle } from '../../types/task'
import { publishAbandon } from '../observe/channels'
import { setTaskDeadline } from '../shared/deadline'
import { FST_BGT_TIMEOUT } from '../shared/errors'
import { asPromise, isThenable } from '../shared/promises'
import { AttemptContext, attemptOver } from '../task/context'
import { parsePayload } from '../task/payload'
import type { TaskSpec } from '../task/spec'
import type { Task } from '../task/task'
import type { Addition, AttemptCollector } from './attempt-collector'
import { call } from './call'
import type { Ledger } from './ledger'
import type { Line } from './line'
import type { Scope, ScopeMaker, Scopes } from './scopes'
import type { StoppableAttempt } from './stoppable-attempt'

/** The surroundings of an attempt. The engine is one. */
export interface AttemptHost {
  readonly ledger: Ledger
  readonly scopes: Scopes
  /** `null` without `@fastify/awilix`. */
  readonly scopeMaker: ScopeMaker | null
  /** `null` where no task runs on a thread. */
  readonly threads: { run (attempt: Attempt, file: string): Promise<unknown> } | null
  /** The reason that signals abort with once the application's close has run out of time; `null` before. */
  readonly closeReason: Error | null
  /** Makes the collector of an attempt. */
  collect (line: Line): AttemptCollector
  completed (task: Task, line: Line, result: unknown): void
  failed (task: Task, line: Line, error: unknown): void
}

/**
 * One attempt of a task that has a time limit, a signal or a context, and so can be stopped while it runs. Made by the engine; over
 * when the function has ended, and the backend has what it has added.
 */
export class Attempt implements StoppableAttempt {
  readonly task: Task
  readonly line: Line
  readonly spec: TaskSpec
  readonly #host: AttemptHost
  #controller: AbortController | null = null
  #onStop: ((reason: unknown) => void) | null = null
  #scope: Scope | undefined
  /** The tasks that the function has added; `null` before the first. */
  #added: AttemptCollector | null = null
  waits = false
  /** Whether the function has ended. */
  #ended = false
  #isAbandoned = false
  #clearDeadline: (() => void) | null = null
  /** The reason of {@link abandon}. */
  #reason: unknown = null

  constructor (host: AttemptHost, task: Task, line: Line, spec: TaskSpec) {
    this.#host = host
    this.task = task
    this.line = line
    this.spec = spec
  }

  start (): void {
    this.line.attempt = this
    // For an attempt on a thread, time begins when the thread has it.
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

  /** Starts the time of the attempt: its function is about to be called, or loaded by its thread. */
  begin (): void {
    const { timeout } = this.spec
    if (timeout === 0 || this.#ended || this.#reason !== null) return
    this.#clearDeadline = setTaskDeadline(timeout, () => {
      const error = new FST_BGT_TIMEOUT(this.task.name, timeout)
      this.abandon(error)
      this.#host.failed(this.task, this.line, error)
    })
  }

  #call (): unknown {
    const { task, line } = this
    const { definition, signal } = this.spec
    if (definition !== null) {
      const { file, handler } = definition
      if (file !== null) return call(task, line, () => this.#host.threads!.run(this, file), [])
      return call(task, line, handler, [parsePayload(task.payload), new AttemptContext(this)])
    }
    const args = task.args as unknown[]
    return call(task, line, task.fn, signal ? [...args, this.signal] : args)
  }

  /** The function has ended. What it has added may still be on its way to the backend. */
  #end (fulfilled: boolean, value: unknown): void {
    this.#clearDeadline?.()
    this.#ended = true
    if (this.#scope !== undefined) this.#host.scopes.dispose(this.#scope, this.line, this.task)
    const stored = fulfilled && this.#reason === null && this.#added !== null ? this.#added.stored() : null
    if (stored === null) this.#settle(fulfilled, value)
    else stored.then(() => this.#settle(true, value), error => this.#settle(false, error))
  }

  #settle (fulfilled: boolean, value: unknown): void {
    this.#detach()
    if (this.#isAbandoned) this.#host.ledger.ended(this.line)
    if (this.#reason !== null) return
    if (fulfilled) this.#host.completed(this.task, this.line, value)
    else this.#host.failed(this.task, this.line, value)
  }

  /** Made at the first use: most tasks never look at it. */
  get signal (): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      const reason = this.#reason ?? this.#host.closeReason
      if (reason !== null) this.#controller.abort(reason)
    }
    return this.#controller.signal
  }

  /** Calls back when the function is to stop, at once if that is already so. For a thread, where a signal would be more than is needed. */
  whenStopped (onStop: (reason: unknown) => void): void {
    const reason = this.#reason ?? this.#host.closeReason
    if (reason === null) this.#onStop = onStop
    else onStop(reason)
  }

  /** A DI scope of the attempt's own. */
  get diScope (): unknown {
    // A scope that is made after the end of the handler would never be disposed.
    if (!this.#ended) this.#scope ??= this.#host.scopeMaker?.createScope(this.line)
    return this.#scope
  }

  progress (value: unknown): void {
    this.task.note('progress', value)
    this.#host.ledger.observer?.progressed(this.task)
    this.line.delivery?.progress(value)
  }

  /** See `TaskContext.add`. */
  add (first: unknown, args: unknown[]): TaskHandle {
    if (this.isOver) throw attemptOver(this.task.name, this.#reason)
    return this.#collector.add(first, args)
  }

  /** Adds a task for the thread of the attempt. Once the attempt is over this does nothing: the thread may not know that yet. */
  addForThread (addition: Addition): void {
    if (!this.isOver) this.#collector.addForThread(addition)
  }

  get #collector (): AttemptCollector {
    this.#added ??= this.#host.collect(this.line)
    return this.#added
  }

  /** Whether the function has ended, or is no longer waited for. */
  get isOver (): boolean {
    return this.#ended || this.#reason !== null
  }

  /** Whether no other attempt can follow. */
  get isLast (): boolean {
    return this.task.attempts >= this.spec.attempts
  }

  get listens (): boolean {
    return !this.#ended && (this.spec.signal || this.spec.definition !== null)
  }

  abort (reason: unknown): void {
    const onStop = this.#onStop
    this.#onStop = null
    onStop?.(reason)
    this.#controller?.abort(reason)
  }

  abandon (reason: unknown): void {
    this.#detach()
    this.#reason = reason
    if (!this.waits) {
      this.#isAbandoned = true
      this.#host.ledger.abandon(this.line)
      publishAbandon(this.task, this.line, reason)
    }
    this.abort(reason)
  }

  /** From here on the attempt cannot be cancelled: abort listeners and `onError`, which may try to, find nothing to cancel. */
  #detach (): void {
    this.#clearDeadline?.()
    if (this.#reason === null) this.line.attempt = null
  }
}
