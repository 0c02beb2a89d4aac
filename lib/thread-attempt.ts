import type { FastifyBaseLogger } from 'fastify'
import { AsyncResource } from 'node:async_hooks'
import type { Attempt } from './attempt'
import { FST_BGT_THREAD_DIED } from './errors'
import { currentCarrier } from './propagation'
import { received } from './received'
import { describe, type TaskDescription } from './report'
import { Snapshot } from './snapshot'
import type { ThreadChannel } from './thread-channel'
import { LOG_LEVELS, type LogLevel, type LogMessage, type ThreadEnd, type ThreadMessage, type ThreadRequest } from './thread-messages'
import { EndOfThread, type ThreadPool } from './thread-pool'
import { decodeThrown, encodeThrown } from './thrown'
import { logFailed } from './write-log'

/** Milliseconds that a handler has to end by itself after its signal has aborted; then its thread is ended. */
const GRACE = 200

/** Attempts made so far. */
let count = 0

type Log = FastifyBaseLogger & { isLevelEnabled?: (level: LogLevel) => boolean }

/** The main thread's side of an attempt that runs on a thread, and its async context, for what the thread says. */
export class ThreadAttempt extends AsyncResource {
  readonly #number = ++count
  readonly #attempt: Attempt
  readonly #file: string
  /** It is to stop: it has been given up, or its time is over, or the application closes. */
  aborted = false
  /** What for. */
  reason: unknown
  /** Called when that happens. */
  onAbort: (() => void) | null = null
  /** Taken where the run is active; it may have to wait for a thread. */
  readonly #carrier = currentCarrier()
  readonly #thread = new EndOfThread()
  /** Taken before the next attempt begins: that may be while this one still has its grace. */
  readonly #description: TaskDescription
  #log: FastifyBaseLogger | null = null
  /** Of the thread that the pool has chosen. */
  #channel: ThreadChannel | null = null
  #over = false
  #end: ThreadEnd | null = null

  constructor (attempt: Attempt, file: string) {
    super('fastify-background-tasks.thread')
    this.#attempt = attempt
    this.#file = file
    this.#description = describe(attempt.task)
    attempt.whenStopped(reason => {
      this.aborted = true
      this.reason = reason
      this.onAbort?.()
    })
  }

  /** Runs the attempt on a thread of the pool. */
  async run (pool: ThreadPool): Promise<unknown> {
    const { task } = this.#attempt
    let grace: NodeJS.Timeout | undefined
    this.onAbort = () => {
      this.#channel?.post({ number: this.#number, reason: encodeThrown(this.reason) })
      grace = setTimeout(() => this.#thread.abort(this.reason), GRACE)
    }
    let died: unknown
    let answer: ThreadEnd | undefined
    try {
      answer = await pool.run(this, this.#request(), this.#transfer(), this.#thread)
    } catch (error) {
      died = this.#thread.aborted ? this.#thread.reason : error
    } finally {
      this.#over = true
      this.onAbort = null
      clearTimeout(grace)
      // Whatever the thread has said, it has said before its end.
      this.#channel?.receiveAll()
      // The thread may live, and not have been given its end of the channel.
      if (died !== undefined) this.#channel?.close()
      else this.#channel?.release()
    }
    const end = this.#end ?? answer ?? null
    // Not the task's failure, but somebody's.
    if (end !== null && died !== undefined && !this.#thread.aborted) this.#attempt.line.runtime.report.threadEnded(died)
    if (end?.type === 'completed') return end.result
    if (end !== null) throw decodeThrown(end.thrown, this)
    if (this.aborted) throw this.reason
    throw threadDied(task.name, died)
  }

  /** Whether nothing of it is to begin any more. The pool keeps it all the same if no thread could be made for it. */
  get over (): boolean {
    return this.#over || this.aborted
  }

  /** The pool has chosen a thread, and is about to hand it the request. */
  assigned (channel: ThreadChannel): void {
    this.#channel = channel
  }

  /** A thread has failed with no task on it: the attempt fails, if that may have been the thread that was started for it. */
  threadFailed (error: Error): void {
    if (this.#channel === null) this.#thread.abort(error)
  }

  #request (): ThreadRequest {
    const { task, line, spec } = this.#attempt
    const { payload } = task
    const log = line.log as Log
    return {
      number: this.#number,
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
      port: null,
      over: false
    }
  }

  #transfer (): readonly ArrayBuffer[] {
    const { payload } = this.#attempt.task
    // An attempt that may be followed by another one leaves the buffers here.
    return payload instanceof Snapshot && this.#attempt.isLast ? payload.transfer : []
  }

  /** Takes what the thread says. */
  receive (message: ThreadMessage): void {
    switch (message.type) {
      case 'arrived': return this.#attempt.begin()
      case 'progress': return this.#progress(message.value)
      case 'log': return this.#write(message)
      default: this.#end = message
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
  return new FST_BGT_THREAD_DIED(name, cause instanceof Error ? cause.message : received(cause), { cause })
}
