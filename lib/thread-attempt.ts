import type { FastifyBaseLogger } from 'fastify'
import type { Piscina } from 'piscina'
import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads'
import type { Attempt } from './attempt'
import { FST_BGT_THREAD_DIED } from './errors'
import { currentCarrier } from './propagation'
import { received } from './received'
import { describe, type TaskDescription } from './report'
import { Snapshot } from './snapshot'
import { LOG_LEVELS, type LogLevel, type LogMessage, type ThreadEnd, type ThreadMessage, type ThreadRequest } from './thread-messages'
import { decodeThrown, encodeThrown } from './thrown'
import { logFailed } from './write-log'

/** Milliseconds that a handler has to end by itself after its signal has aborted; then its thread is ended. */
const GRACE = 200

type Log = FastifyBaseLogger & { isLevelEnabled?: (level: LogLevel) => boolean }

/** The main thread's side of an attempt that runs on a thread. */
export class ThreadAttempt {
  readonly #attempt: Attempt
  readonly #file: string
  /** What the attempt has been given up for, or its time is over for. */
  readonly signal: AbortSignal
  /** Taken where the run is active; it may have to wait for a thread. */
  readonly #carrier = currentCarrier()
  readonly #thread = new AbortController()
  /** Taken before the next attempt begins: that may be while this one still has its grace. */
  readonly #description: TaskDescription
  #log: FastifyBaseLogger | null = null
  #arrived = false
  /** Set by `run`. */
  #port!: MessagePort
  #end: ThreadEnd | null = null

  constructor (attempt: Attempt, file: string) {
    this.#attempt = attempt
    this.#file = file
    this.signal = attempt.signal
    this.#description = describe(attempt.task)
  }

  /** Runs the attempt on a thread of the pool. */
  async run (pool: Piscina): Promise<unknown> {
    const { signal } = this
    const { task } = this.#attempt
    const { port1: port, port2 } = new MessageChannel()
    this.#port = port
    let grace: NodeJS.Timeout | undefined
    const abort = () => {
      port.postMessage(encodeThrown(signal.reason))
      grace = setTimeout(() => this.#thread.abort(), GRACE)
    }
    port.on('message', message => this.#receive(message))
    signal.addEventListener('abort', abort, { once: true })
    let died: unknown
    try {
      const { transfer, ...request } = this.#request()
      await pool.run({ ...request, port: port2 }, { signal: this.#thread.signal, transferList: [port2, ...transfer] })
    } catch (error) {
      died = this.#thread.signal.aborted ? this.#thread.signal.reason : error
    } finally {
      signal.removeEventListener('abort', abort)
      clearTimeout(grace)
      // Whatever the thread has said, it has said before its end.
      this.#receiveAll()
      port.close()
    }
    const end = this.#end as ThreadEnd | null
    // Not the task's failure, but somebody's.
    if (end !== null && died !== undefined && !this.#thread.signal.aborted) this.#attempt.line.runtime.report.threadEnded(died)
    if (end?.type === 'completed') return end.result
    if (end !== null) throw decodeThrown(end.thrown, signal)
    if (signal.aborted) throw signal.reason
    throw threadDied(task.name, died)
  }

  /** A thread has failed with no task on it: the attempt fails, if that may have been the thread that was started for it. */
  threadFailed (error: Error): void {
    this.#receiveAll()
    if (!this.#arrived) this.#thread.abort(error)
  }

  #request (): Omit<ThreadRequest, 'port'> & { transfer: readonly ArrayBuffer[] } {
    const { task, line } = this.#attempt
    const { payload } = task
    const log = line.log as Log
    const isClone = payload instanceof Snapshot
    return {
      id: task.ownId,
      name: task.name,
      attempt: task.attempts,
      requestId: line.requestId,
      carrier: this.#carrier,
      file: this.#file,
      payload: isClone ? { value: payload.value } : { json: payload },
      level: log.level,
      levels: LOG_LEVELS.filter(level => log.isLevelEnabled?.(level) ?? true),
      // An attempt that may be followed by another one leaves the buffers here.
      transfer: isClone && this.#attempt.isLast ? payload.transfer : []
    }
  }

  #receiveAll (): void {
    for (let next = receiveMessageOnPort(this.#port); next !== undefined; next = receiveMessageOnPort(this.#port)) this.#receive(next.message)
  }

  #receive (message: ThreadMessage): void {
    switch (message.type) {
      case 'arrived':
        this.#arrived = true
        return this.#attempt.begin()
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
