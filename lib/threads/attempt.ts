import type { FastifyBaseLogger } from 'fastify'
import { AsyncResource } from 'node:async_hooks'
import { currentCarrier } from '../observe/propagation'
import { describe, type Report, type TaskDescription } from '../observe/report'
import type { Attempt } from '../run/attempt'
import type { Addition } from '../run/attempt-collector'
import { setDeadline } from '../shared/deadline'
import { FST_BGT_THREAD_DIED, FST_BGT_UNCLONABLE } from '../shared/errors'
import { textOf } from '../shared/show'
import { logFailed } from '../shared/write-log'
import { Snapshot } from '../task/snapshot'
import type { Task } from '../task/task'
import { LOG_LEVELS, type LogLevel, type LogMessage, type ThreadAbort, type ThreadEnd, type ThreadMessage, type ThreadRequest } from './messages'
import { decodeThrown, encodeThrown } from './thrown'

/** Time for a handler to end by itself after its signal has aborted; then its thread is terminated. */
const ABORT_GRACE_MS = 200

/** Number of the last attempt that this process sent to a thread. */
let lastNumber = 0

/** The thread of an attempt: a lease. */
export interface AttemptThread {
  abort (message: ThreadAbort): void
  terminate (reason: unknown): void
}

type Log = FastifyBaseLogger & { isLevelEnabled?: (level: LogLevel) => boolean }

/**
 * The main thread's side of one attempt on a thread. Made by {@link Threads}; ends when its promise settles. As an async resource, it
 * keeps the task's async context for the thread's messages.
 */
export class ThreadAttempt extends AsyncResource {
  readonly number = ++lastNumber
  readonly #attempt: Attempt
  readonly #report: Report
  readonly #file: string
  readonly #resolve: (result: unknown) => void
  readonly #reject: (error: unknown) => void
  readonly #onAbortedWaiting: (attempt: ThreadAttempt) => void
  /** Whether the attempt must stop: it was cancelled, it timed out, or the application closes. */
  aborted = false
  /** The abort reason. */
  reason: unknown
  /** The number of tasks that the handler has added. */
  #added = 0
  #onAbort: (() => void) | null = null
  #clearGrace: (() => void) | null = null
  /** Read now, while the run's trace is active: the attempt may wait for a thread. */
  readonly #carrier = currentCarrier()
  /** Read now: during this attempt's grace the next attempt may begin, and the task's attempt number with it. */
  readonly #description: TaskDescription
  #log: FastifyBaseLogger | null = null

  /** @param onAbortedWaiting called after the attempt was aborted, and its promise rejected, while it waited for a thread */
  constructor (attempt: Attempt, report: Report, file: string, resolve: (result: unknown) => void, reject: (error: unknown) => void, onAbortedWaiting: (attempt: ThreadAttempt) => void) {
    super('fastify-background-tasks.thread')
    this.#attempt = attempt
    this.#report = report
    this.#file = file
    this.#resolve = resolve
    this.#reject = reject
    this.#onAbortedWaiting = onAbortedWaiting
    this.#description = describe(attempt.task)
    this.wait()
    attempt.whenStopped(reason => {
      this.aborted = true
      this.reason = reason
      this.#onAbort?.()
    })
  }

  get task (): Task {
    return this.#attempt.task
  }

  /** Puts the attempt in the state of waiting for a thread, until {@link startOn}. */
  wait (): void {
    this.#attempt.waits = true
    this.#onAbort = () => {
      this.#reject(this.reason)
      this.#onAbortedWaiting(this)
    }
  }

  /** Called before the attempt is sent to a thread. */
  startOn (thread: AttemptThread): void {
    this.#attempt.waits = false
    this.#onAbort = () => {
      thread.abort({ type: 'abort', number: this.number, reason: encodeThrown(this.reason), over: this.#attempt.isOver })
      this.#clearGrace = setDeadline(ABORT_GRACE_MS, () => thread.terminate(this.reason))
    }
  }

  /** Settles the attempt by the thread's answer; `undefined`: the answer is unreadable here, or the request was {@link ThreadRequest.over}. */
  ended (end: ThreadEnd | undefined): void {
    if (end === undefined) {
      this.#fail(new FST_BGT_UNCLONABLE(`The result or error of the background task '${this.task.name}'`, 'what cannot be read outside of its thread'))
    } else if (end.type === 'completed' && end.added !== this.#added) {
      this.#fail(new FST_BGT_UNCLONABLE(`A payload that the background task '${this.task.name}' has added`, 'what cannot be read outside of its thread'))
    } else {
      this.#detach()
      if (end.type === 'completed') this.#resolve(end.result)
      else this.#reject(decodeThrown(end.thrown, this))
    }
  }

  /** Fails the attempt: its thread ended without an answer. */
  died (cause: unknown): void {
    this.#fail(threadDied(this.task.name, cause))
  }

  /** Rejects; an aborted attempt rejects with its abort reason instead of `error`. */
  #fail (error: Error): void {
    this.#detach()
    this.#reject(this.aborted ? this.reason : error)
  }

  #detach (): void {
    this.#clearGrace?.()
    this.#onAbort = null
  }

  /** The request to the thread. */
  request (stays: boolean): ThreadRequest {
    // In the task's async context: the logger is user code.
    return this.runInAsyncScope(this.#request, this, stays)
  }

  #request (stays: boolean): ThreadRequest {
    const { task, line, spec } = this.#attempt
    const { payload } = task
    const log = line.log as Log
    return {
      number: this.number,
      id: task.ownId,
      name: task.name,
      attempt: task.attempts,
      requestId: line.requestId,
      carrier: this.#carrier,
      file: this.#file,
      payload: payload instanceof Snapshot ? { value: payload.value } : { json: payload },
      // In some loggers `level` is a method.
      level: typeof log.level === 'string' ? log.level : 'info',
      levels: LOG_LEVELS.filter(level => log.isLevelEnabled?.(level) ?? true),
      timed: spec.timeout !== 0,
      stays,
      channel: null,
      over: false
    }
  }

  /** The payload's buffers that move to the thread instead of being copied. */
  get transfer (): readonly ArrayBuffer[] {
    const { payload } = this.#attempt.task
    // If another attempt can follow, the buffers stay here for it.
    return payload instanceof Snapshot && this.#attempt.isLast ? payload.transfer : []
  }

  /** Handles a message that the thread sent while the attempt runs. */
  receive (message: Exclude<ThreadMessage, ThreadEnd | { type: 'ended' }>): void {
    switch (message.type) {
      case 'arrived': return this.#attempt.begin()
      case 'add': return this.#add(message.addition)
      case 'progress': return this.#progress(message.value)
      case 'log': return this.#writeLine(message)
    }
  }

  /* None of the methods below throws: an exception in an event of the port would end the process. */

  #add (addition: Addition): void {
    this.#added++
    this.#attempt.addForThread(addition)
  }

  #progress (value: unknown): void {
    const { task, line } = this.#attempt
    try {
      this.#attempt.progress(value)
    } catch (error) {
      this.#report.progressFailed(task, line, error)
    }
  }

  #writeLine ({ level, fields, errors, rest }: LogMessage): void {
    const { task, line } = this.#attempt
    try {
      this.#log ??= line.log.child({ task: this.#description })
      const decoded = Object.fromEntries(Object.entries(errors).map(([name, thrown]) => [name, decodeThrown(thrown)]))
      this.#log[level]({ ...fields, ...decoded }, ...rest as [string])
    } catch (error) {
      logFailed(`a line of the background task '${task.name}'`, error)
    }
  }
}

/** The error of a task whose thread ended while it ran. */
export function threadDied (name: string, cause: unknown): Error {
  return new FST_BGT_THREAD_DIED(name, textOf(cause), { cause })
}
