import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Attempt } from './attempt'

/** The request's DI scope as `@fastify/awilix` types it; `undefined` where its types are not loaded. */
export type DiScope = FastifyRequest extends { diScope: infer Scope } ? Scope : undefined

/** What the handler of a defined task gets beside its payload. */
export interface TaskContext {
  /** The same on every attempt: a key for idempotency. */
  readonly id: string
  /** The name of the definition, or the option `name` of the `add`. */
  readonly name: string
  /** 1 on the first attempt. */
  readonly attempt: number
  /** Aborts at the timeout, at `cancel()` and when the application's close runs out of time. */
  readonly signal: AbortSignal
  /** A child of the request's logger, or of the application's, that names the task. Made when first read. */
  readonly log: FastifyBaseLogger
  /** The id of the request that added the task; `null` for one that the application added. */
  readonly requestId: string | null
  /**
   * A DI scope of this attempt's own, made when first read and disposed when the handler has ended; its
   * `backgroundTasks` is the collector that the task came from. `undefined` without `@fastify/awilix`.
   * @throws FST_BGT_NO_DI_SCOPE on a worker thread
   */
  readonly diScope: DiScope
  /** Notes how far the task has come: any JSON value. The last one is what `find` shows. */
  progress (value: unknown): void
}

/** The context of one attempt. Whatever costs something is made when the handler asks for it. */
export class AttemptContext implements TaskContext {
  readonly #attempt: Attempt
  readonly attempt: number
  #log: FastifyBaseLogger | null = null

  constructor (attempt: Attempt) {
    this.#attempt = attempt
    this.attempt = attempt.task.attempts
  }

  get id (): string {
    return this.#attempt.task.id
  }

  get name (): string {
    return this.#attempt.task.name
  }

  get signal (): AbortSignal {
    return this.#attempt.signal
  }

  get log (): FastifyBaseLogger {
    this.#log ??= this.#attempt.line.log.child({ task: { id: this.id, name: this.name, attempt: this.attempt } })
    return this.#log
  }

  get requestId (): string | null {
    return this.#attempt.line.requestId
  }

  get diScope (): DiScope {
    return this.#attempt.diScope as DiScope
  }

  readonly progress = (value: unknown): void => {
    this.#attempt.progress(value)
  }
}

function ignore (): void {}

const silentLogger = {
  level: 'silent',
  fatal: ignore,
  error: ignore,
  warn: ignore,
  info: ignore,
  debug: ignore,
  trace: ignore,
  silent: ignore,
  child: () => silentLogger
} as unknown as FastifyBaseLogger

/** What a definition called as a function gets where the caller says nothing: first attempt, no request, no log. */
export function defaultContext (name: string): TaskContext {
  return {
    id: randomUUID(),
    name,
    attempt: 1,
    signal: new AbortController().signal,
    log: silentLogger,
    requestId: null,
    diScope: undefined as unknown as DiScope,
    progress: ignore
  }
}
