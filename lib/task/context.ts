import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { DiScope, TaskContext } from '../../types/definition'
import type { TaskHandle } from '../../types/task'
import { FST_BGT_NO_ATTEMPT } from '../shared/errors'
import type { Origin } from './origin'
import type { Task } from './task'

/** The members of a running attempt that its context needs. */
interface ContextSource {
  readonly task: Task
  readonly line: Origin
  readonly signal: AbortSignal
  readonly diScope: unknown
  progress (value: unknown): void
  add (first: unknown, args: unknown[]): TaskHandle
}

/** The context of one attempt, for the handler of a defined task. Its costly members are made at first use. */
export class AttemptContext implements TaskContext {
  readonly #attempt: ContextSource
  readonly attempt: number
  #log: FastifyBaseLogger | null = null
  #add: TaskContext['add'] | null = null

  constructor (attempt: ContextSource) {
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

  get add (): TaskContext['add'] {
    this.#add ??= (first: unknown, ...args: unknown[]) => this.#attempt.add(first, args)
    return this.#add
  }
}

/** The error of a `ctx.add` after the end of the attempt. @param reason why the attempt is no longer waited for, if so */
export function attemptOver (name: string, reason: unknown): Error {
  return new FST_BGT_NO_ATTEMPT(name, 'after the end of its attempt: await all that adds tasks, before the handler ends', { cause: reason ?? undefined })
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

/** The context of a definition that is called as a function without one: first attempt, no request, silent logger. */
export function defaultContext (name: string): TaskContext {
  return {
    id: randomUUID(),
    name,
    attempt: 1,
    signal: new AbortController().signal,
    log: silentLogger,
    requestId: null,
    diScope: undefined as unknown as DiScope,
    progress: ignore,
    add: () => { throw new FST_BGT_NO_ATTEMPT(name, 'where there is no attempt: a definition that is called as a function needs a context that has an add') }
  }
}
