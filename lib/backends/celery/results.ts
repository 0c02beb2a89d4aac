import type { Redis } from 'ioredis'
import { textOf } from '../../shared/show'
import { now, sleep } from '../../shared/timers'
import type { StoredTask, TaskInfo } from '../../../types/backend'
import { codeOf, setCode, type Code } from '../error-code'
import { isClient, retryStrategy } from '../redis'
import type { Incoming } from './incoming'
import { isoTime } from './message'

/*
 * Celery's results in Redis, which both sides read and write: https://docs.celeryq.dev/en/stable/internals/protocol.html has no word
 * on them, so the shape is that of celery/backends/base.py, `_get_result_meta`.
 */

/** Milliseconds for which the outcome of a task is tried to be written. */
const PATIENCE_MS = 10_000

/** Milliseconds between two tries. */
const RETRY_MS = 500

const META = 'celery-task-meta-'

/** Beside Celery's: the name of a task that was added here, which Celery's results lack. */
const ADDED = 'fastify-background-tasks:'

/** The record under a task's id. */
interface Meta {
  status: string
  result: unknown
  traceback: string | null
  children: unknown[]
  date_done: string | null
  task_id: string
  /** As Celery's with `result_extended`. */
  name: string
  retries: number
  /** Fields that Celery does not have. */
  fastify: { label: string, progress?: unknown, nothing?: true, code?: Code | undefined }
}

export type TaskEnd =
  | { state: 'completed', result: string | null }
  | { state: 'failed', error: unknown }
  | { state: 'cancelled', reason: string }

/** The fields of an attempt that are written with its state. */
export type AttemptRecord = Pick<Incoming, 'task' | 'retries' | 'ignoreResult'> & {
  /** JSON text of the last progress; `null` without one. */
  progress: string | null
}

export interface ResultsOptions {
  /** A URL, options of ioredis, or a client of it. */
  connection: string | object
  /** Seconds for which results are kept. */
  expires: number
  /** Milliseconds without an answer after which the connection is given up. */
  silence: number
  inTrouble: (error: Error) => void
}

/** Fails at once where Redis is away: nothing that is only told is worth a wait. */
const FAST = { enableOfflineQueue: false, maxRetriesPerRequest: 1, lazyConnect: true }

const reconnectOnError = ({ message }: Error) => message.startsWith('READONLY') && 2

export function checkConnection (connection: unknown): boolean {
  if (typeof connection === 'string') return /^rediss?:\/\//.test(connection)
  return typeof connection === 'object' && connection !== null && !(connection instanceof URL)
}

export class Results {
  readonly #redis: Redis
  readonly #own: boolean
  readonly #expires: number
  #closed = false

  constructor (ioredis: typeof import('ioredis'), { connection, expires, silence, inTrouble }: ResultsOptions) {
    this.#expires = expires
    this.#own = !isClient(connection)
    if (isClient(connection)) {
      this.#redis = connection as Redis
    } else {
      const RedisClient = ioredis.default as unknown as new (...args: unknown[]) => Redis
      const options = { retryStrategy, reconnectOnError, socketTimeout: silence, commandTimeout: silence, connectTimeout: silence, ...FAST }
      this.#redis = typeof connection === 'string' ? new RedisClient(connection, options) : new RedisClient({ ...options, ...connection, ...FAST })
      this.#redis.on('error', inTrouble)
    }
  }

  async open (): Promise<void> {
    if (this.#own) await this.#redis.connect()
    await this.#redis.ping()
  }

  /** Notes that these tasks are on their way, so that they can be found before they begin. */
  async remember (tasks: StoredTask[]): Promise<void> {
    const pipeline = this.#redis.pipeline()
    for (const { id, name, label, delay } of tasks) pipeline.set(ADDED + id, JSON.stringify({ name, label }), 'EX', this.#expires + Math.ceil(delay / 1_000))
    await this.#exec(pipeline)
  }

  async #exec (pipeline: ReturnType<Redis['pipeline']>): Promise<void> {
    for (const [error] of await pipeline.exec() as Array<[Error | null, unknown]>) if (error !== null) throw error
  }

  /** Writes a state that is not final, as Celery's `update_state` does. */
  async note (status: 'STARTED' | 'RETRY' | 'PROGRESS', attempt: AttemptRecord, result: unknown, traceback: string | null = null): Promise<void> {
    if (!attempt.ignoreResult) await this.#write(metaOf(status, attempt, result, traceback))
  }

  async retry (attempt: AttemptRecord, error: unknown): Promise<void> {
    await this.note('RETRY', attempt, exceptionOf(error), stackOf(error))
  }

  /** A task that was handed back, and is as it was before. */
  async forget ({ task, ignoreResult }: AttemptRecord): Promise<void> {
    if (!ignoreResult) await this.#redis.del(META + task.id)
  }

  /** Writes the outcome. A Redis that is away is waited for, for a while. */
  async settle (attempt: AttemptRecord, outcome: TaskEnd): Promise<void> {
    if (attempt.ignoreResult) return
    const meta = outcomeMeta(attempt, outcome)
    const end = now() + PATIENCE_MS
    for (;;) {
      try {
        return await this.#write(meta)
      } catch (error) {
        if (this.#closed || now() + RETRY_MS > end) throw error
        await sleep(RETRY_MS)
      }
    }
  }

  async #write (meta: Meta): Promise<void> {
    const key = META + meta.task_id
    const text = JSON.stringify(meta)
    // Celery's clients that wait for a result are told by the channel of the same name.
    await this.#exec(this.#redis.pipeline().set(key, text, 'EX', this.#expires).publish(key, text))
  }

  async find (id: string): Promise<TaskInfo | null> {
    const [meta, added] = await this.#redis.mget(META + id, ADDED + id)
    const known = objectIn(added)
    const found = objectIn(meta)
    if (found === null && known === null) return null
    return infoOf(id, found ?? { status: 'PENDING' }, known)
  }

  close (): void {
    this.#closed = true
    if (this.#own) this.#redis.disconnect()
  }
}

function metaOf (status: string, { task, retries, progress }: AttemptRecord, result: unknown, traceback: string | null): Meta {
  return {
    status,
    result,
    traceback,
    children: [],
    date_done: ['SUCCESS', 'FAILURE', 'REVOKED'].includes(status) ? isoTime(Date.now()).slice(0, -6) : null,
    task_id: task.id,
    name: task.name,
    retries,
    fastify: { label: task.label, ...(progress !== null && { progress: JSON.parse(progress) }) }
  }
}

function outcomeMeta (attempt: AttemptRecord, outcome: TaskEnd): Meta {
  switch (outcome.state) {
    case 'completed': {
      const meta = metaOf('SUCCESS', attempt, outcome.result === null ? null : JSON.parse(outcome.result), null)
      if (outcome.result === null) meta.fastify.nothing = true
      return meta
    }
    case 'failed': {
      const meta = metaOf('FAILURE', attempt, exceptionOf(outcome.error), stackOf(outcome.error))
      meta.fastify.code = codeOf(outcome.error)
      return meta
    }
  }
  return metaOf('REVOKED', attempt, { exc_type: 'TaskRevokedError', exc_message: [outcome.reason], exc_module: 'celery.exceptions' }, null)
}

/** Without a module Celery makes a class of that name, which `except Exception` catches. */
function exceptionOf (error: unknown): object {
  return { exc_type: nameOf(error), exc_message: [textOf(error)], exc_module: null }
}

/** A name that Python takes for a class. Reading it may fail: anything can be thrown. */
function nameOf (error: unknown): string {
  try {
    const { name } = error as { name?: unknown }
    return typeof name === 'string' && /^[\p{L}_][\p{L}\p{N}_]*$/u.test(name) ? name : 'Error'
  } catch {
    return 'Error'
  }
}

function stackOf (error: unknown): string | null {
  try {
    return error instanceof Error && error.stack !== undefined ? String(error.stack) : null
  } catch {
    return null
  }
}

/** Python writes `NaN` where JSON has none, and other programs may have such keys. */
function objectIn (text: string | null | undefined): Record<string, any> | null {
  try {
    const value = JSON.parse(text ?? 'null') as unknown
    return typeof value === 'object' && !Array.isArray(value) ? value : null
  } catch {
    return null
  }
}

const STATES: Record<string, TaskInfo['state']> = {
  PENDING: 'pending',
  RECEIVED: 'pending',
  RETRY: 'pending',
  STARTED: 'running',
  SUCCESS: 'completed',
  FAILURE: 'failed',
  REVOKED: 'cancelled',
  REJECTED: 'failed',
  IGNORED: 'completed'
}

function infoOf (id: string, meta: Record<string, any>, added: Record<string, any> | null): TaskInfo {
  const { status, result, traceback, retries, name, fastify: own = {} } = meta
  // States that are a task's own, such as PROGRESS, come from `update_state`.
  const state = STATES[status] ?? 'running'
  const begun = status !== 'PENDING' && status !== 'RECEIVED'
  return {
    id,
    name: own?.label ?? added?.label ?? name ?? '',
    state,
    attempts: begun ? (typeof retries === 'number' ? retries : 0) + 1 : 0,
    progress: own?.progress ?? (Object.hasOwn(STATES, status) ? undefined : result),
    result: state === 'completed' && own?.nothing !== true ? result : undefined,
    error: state === 'failed' ? errorOf(result, traceback, own?.code) : undefined
  }
}

/** The error of a failed task, of either side. */
function errorOf (result: any, traceback: unknown, code: unknown): Error {
  const message = Array.isArray(result?.exc_message) ? result.exc_message.map(String).join(', ') : String(result?.exc_message ?? '')
  const error = new Error(message)
  if (typeof result?.exc_type === 'string') Object.defineProperty(error, 'name', { value: result.exc_type, configurable: true, writable: true })
  error.stack = typeof traceback === 'string' ? traceback : `${error.name}: ${message}`
  setCode(error, code)
  return error
}
