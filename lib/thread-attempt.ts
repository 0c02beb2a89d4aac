import type { FastifyBaseLogger } from 'fastify'
import { AsyncResource } from 'node:async_hooks'
import type { Attempt } from './attempt'
import { setDeadline } from './deadline'
import { FST_BGT_THREAD_DIED, FST_BGT_UNCLONABLE } from './errors'
import { currentCarrier } from './propagation'
import { textOf } from './received'
import { describe, type TaskDescription } from './report'
import { Snapshot } from './snapshot'
import type { Task } from './task'
import type { ThreadLease } from './thread-lease'
import { LOG_LEVELS, type LogLevel, type LogMessage, type ThreadEnd, type ThreadMessage, type ThreadRequest } from './thread-messages'
import { decodeThrown, encodeThrown } from './thrown'
import { logFailed } from './write-log'

/** Milliseconds that a handler has to end by itself after its signal has aborted; then its thread is ended. */
const GRACE = 200

/** Attempts made so far. */
let count = 0

type Log = FastifyBaseLogger & { isLevelEnabled?: (level: LogLevel) => boolean }

/** The main thread's side of an attempt that runs on a thread, and its async context, for what the thread says. */
export class ThreadAttempt extends AsyncResource {
  readonly number = ++count
  readonly #attempt: Attempt
  readonly #file: string
  readonly #resolve: (result: unknown) => void
  readonly #reject: (error: unknown) => void
  readonly #onGivenUp: (attempt: ThreadAttempt) => void
  /** It is to stop: it has been given up, or its time is over, or the application closes. */
  aborted = false
  /** What for. */
  reason: unknown
  #onAbort: (() => void) | null = null
  #clearGrace: (() => void) | null = null
  /** Taken where the run is active; it may have to wait for a thread. */
  readonly #carrier = currentCarrier()
  /** Taken before the next attempt begins: that may be while this one still has its grace. */
  readonly #description: TaskDescription
  #log: FastifyBaseLogger | null = null

  /** @param onGivenUp called when it is to stop while it waits for a thread: it has been rejected then */
  constructor (attempt: Attempt, file: string, resolve: (result: unknown) => void, reject: (error: unknown) => void, onGivenUp: (attempt: ThreadAttempt) => void) {
    super('fastify-background-tasks.thread')
    this.#attempt = attempt
    this.#file = file
    this.#resolve = resolve
    this.#reject = reject
    this.#onGivenUp = onGivenUp
    this.#description = describe(attempt.task)
    this.waits()
    attempt.whenStopped(reason => {
      this.aborted = true
      this.reason = reason
      this.#onAbort?.()
    })
  }

  get task (): Task {
    return this.#attempt.task
  }

  /** Nothing of it runs until it {@link startsOn} a thread. */
  waits (): void {
    this.#attempt.waits = true
    this.#onAbort = () => {
      this.#reject(this.reason)
      this.#onGivenUp(this)
    }
  }

  /** A thread is about to be asked to run it. */
  startsOn (lease: ThreadLease): void {
    this.#attempt.waits = false
    this.#onAbort = () => {
      lease.abort({ type: 'abort', number: this.number, reason: encodeThrown(this.reason) })
      this.#clearGrace = setDeadline(GRACE, () => lease.endThread(this.reason))
    }
  }

  /** The thread has told how it ended; `undefined` if that cannot be read here, or if it was {@link ThreadRequest.over}. */
  ended (end: ThreadEnd | undefined): void {
    if (end === undefined) {
      this.#fail(new FST_BGT_UNCLONABLE(`The result or error of the background task '${this.task.name}'`, 'what cannot be read outside of its thread'))
    } else {
      this.#detach()
      if (end.type === 'completed') this.#resolve(end.result)
      else this.#reject(decodeThrown(end.thrown, this))
    }
  }

  /** The thread has not told, and will not any more. */
  died (cause: unknown): void {
    this.#fail(threadDied(this.task.name, cause))
  }

  /** One that was to stop fails with what for. */
  #fail (error: Error): void {
    this.#detach()
    this.#reject(this.aborted ? this.reason : error)
  }

  #detach (): void {
    this.#clearGrace?.()
    this.#onAbort = null
  }

  /** What the thread is asked. */
  request (stays: boolean): ThreadRequest {
    // The logger is the user's.
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
      // Some loggers have a method there.
      level: typeof log.level === 'string' ? log.level : 'info',
      levels: LOG_LEVELS.filter(level => log.isLevelEnabled?.(level) ?? true),
      timed: spec.timeout !== 0,
      stays,
      channel: null,
      over: false
    }
  }

  /** What of that moves to it. */
  get transfer (): readonly ArrayBuffer[] {
    const { payload } = this.#attempt.task
    // An attempt that may be followed by another one leaves the buffers here.
    return payload instanceof Snapshot && this.#attempt.isLast ? payload.transfer : []
  }

  /** Takes what the thread says meanwhile. */
  receive (message: Exclude<ThreadMessage, ThreadEnd | { type: 'ended' }>): void {
    switch (message.type) {
      case 'arrived': return this.#attempt.begin()
      case 'progress': return this.#progress(message.value)
      case 'log': return this.#write(message)
    }
  }

  /* What throws in here would do so in an event of the port, and end the process. */

  #progress (value: unknown): void {
    const { task, line } = this.#attempt
    try {
      this.#attempt.progress(value)
    } catch (error) {
      line.runtime.report.progressFailed(task, line, error)
    }
  }

  #write ({ level, fields, errors, rest }: LogMessage): void {
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

/** The error of a task whose thread has ended under it. */
export function threadDied (name: string, cause: unknown): Error {
  return new FST_BGT_THREAD_DIED(name, textOf(cause), { cause })
}
