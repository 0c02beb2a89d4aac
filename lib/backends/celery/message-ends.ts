import type { ConsumeMessage } from 'amqplib'
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import { backoffDelay } from '../../shared/backoff'
import { toJson } from '../../shared/json'
import { sleep } from '../../shared/timers'
import { isUnrecoverable } from '../../shared/unrecoverable-error'
import type { DeliveryEnd, LogOf, StoredTask } from '../../../types/backend'
import { Progress } from '../progress'
import { loggedTask } from '../stored-task'
import type { Consumer, HeldMessage } from './held-message'
import type { UnusableMessage } from './incoming'
import { copyOf, followUp, type Outgoing } from './message'
import type { TaskEnd, Results } from './results'
import type { Subscription } from './subscription'

export interface MessageEndsOptions {
  queue: string
  /** The queue for tasks of this name. */
  queueOf: (name: string) => string
  publish: (message: Outgoing) => Promise<void>
  results: Results | null
  log: FastifyBaseLogger
  logOf: LogOf
  inTrouble: (error: Error) => void
}

/** The end of an attempt that was made. */
export type AttemptEnd = Exclude<DeliveryEnd, { state: 'not attempted' }>

/** Milliseconds after which a message that RabbitMQ has refused is published again. */
const RETRY_MS = 1_000

/** Keys of messages that have ended here: an acknowledgement that the network has lost is sent again, and the task not run again. */
const MAX_ENDED = 10_000

/**
 * The ends of messages: outcomes are written, whatever follows is published, and only then the message is acknowledged. Made with the
 * worker, ends with it.
 */
export class MessageEnds {
  readonly #options: MessageEndsOptions
  readonly #subscription: Subscription
  /** Oldest first. */
  readonly #ended = new Set<string>()
  /** Work that has not ended, the worker's too. */
  readonly #open = new Set<Promise<void>>()
  /** Messages on their way back to the queue. */
  readonly #returns = new Set<Promise<void>>()
  #closed = false

  constructor (options: MessageEndsOptions, subscription: Subscription) {
    this.#options = options
    this.#subscription = subscription
  }

  /** Called when a refused message is not to be published again: the connection is about to close. */
  close (): void {
    this.#closed = true
  }

  /** Has work end before the worker does. Its error goes to the log. */
  track (work: Promise<void>): void {
    const tracked = work.catch(error => this.#options.inTrouble(error as Error)).finally(() => this.#open.delete(tracked))
    this.#open.add(tracked)
  }

  /** Resolves when all work that is tracked now has ended. */
  async tracked (): Promise<void> {
    await Promise.all(this.#open)
  }

  /** Whether messages are on their way back to the queue. */
  get returning (): boolean {
    return this.#returns.size !== 0
  }

  /** Resolves when no message is on its way back to the queue. */
  async returned (): Promise<void> {
    while (this.returning) await Promise.allSettled(this.#returns)
  }

  hasEnded ({ key }: HeldMessage): boolean {
    return this.#ended.has(key)
  }

  acknowledge (held: HeldMessage): void {
    this.#ended.add(held.key)
    if (this.#ended.size > MAX_ENDED) this.#ended.delete(this.#ended.values().next().value as string)
    this.#subscription.acknowledge(held)
  }

  /** The end of an attempt: of its task, or the message for the next attempt. */
  async settle (held: HeldMessage, end: AttemptEnd): Promise<void> {
    const { task, incoming: { retries } } = held
    if (end.state === 'completed') return this.#complete(held, end.result)
    if (end.state === 'cancelled') return this.finish(held, { ...end, reason: 'cancelled' })
    const attempts = retries + 1
    if (attempts >= task.attempts || isUnrecoverable(end.error)) return this.finish(held, end)
    await this.#options.results?.retry(held.attempt, end.error).catch(this.#options.inTrouble)
    const delay = task.backoff === null ? 0 : backoffDelay(task.backoff, attempts)
    return this.putBack(held, { retries: attempts, crashes: 0, ...(delay !== 0 && { eta: Date.now() + delay }) })
  }

  async #complete (held: HeldMessage, result: unknown): Promise<void> {
    let text: string | null = null
    try {
      text = toJson(result)
    } catch (error) {
      // The work is done, also if the returned value cannot be kept.
      this.#notStored(held, 'result', error)
    }
    await this.#follow(held, text ?? 'null')
    await this.finish(held, { state: 'completed', result: text })
  }

  /** Publishes what follows the task in Celery: its callbacks, and the next step of its chain. */
  async #follow (held: HeldMessage, result: string): Promise<void> {
    const { incoming } = held
    const rest = incoming.chain.slice(0, -1)
    const steps = [...incoming.callbacks.map(step => ({ step, rest: [] })), ...incoming.chain.slice(-1).map(step => ({ step, rest }))]
    for (const { step, rest } of steps) {
      if (typeof step.subtask_type === 'string') {
        this.#logOf(held).error({ task: loggedTask(held.task), step: step.task }, 'RabbitMQ: what follows a background task is a group or a chord of Celery, which only its own workers can begin')
        continue
      }
      await this.#publish(held, followUp(step, result, incoming, rest, this.#options.queueOf, randomUUID))
    }
  }

  /** The end of a task: its outcome is written, and the message acknowledged. */
  async finish (held: HeldMessage, outcome: TaskEnd): Promise<void> {
    await this.#options.results?.settle(held.attempt, outcome).catch(error => this.#notStored(held, 'result', error))
    this.acknowledge(held)
  }

  /** Ends a task that has not begun here. */
  end (held: HeldMessage, outcome: TaskEnd): void {
    this.track(this.finish(held, outcome).finally(() => this.#subscription.free(held.consumer)))
  }

  /** Gives a message back to the queue. */
  return (held: HeldMessage, changes: Parameters<typeof copyOf>[2] = {}): void {
    const returned = this.putBack(held, changes).finally(() => {
      this.#returns.delete(returned)
      this.#subscription.free(held.consumer)
    })
    this.#returns.add(returned)
    this.track(returned)
  }

  /** Publishes a copy of the message, and acknowledges the one that is here. */
  async putBack (held: HeldMessage, changes: Parameters<typeof copyOf>[2] = {}): Promise<void> {
    if (await this.#publish(held, copyOf(held.message, this.#options.queue, changes))) this.acknowledge(held)
  }

  /**
   * Resolves with `true` when RabbitMQ has the message; with `false` if the message that it is for was lost: that is handed out again,
   * perhaps to another worker.
   */
  async #publish (held: HeldMessage, message: Outgoing): Promise<boolean> {
    while (this.#subscription.isLive(held.consumer) && !this.#closed) {
      try {
        await this.#options.publish(message)
        return true
      } catch (error) {
        this.#options.inTrouble(error as Error)
        await sleep(RETRY_MS)
      }
    }
    return false
  }

  /** Ends a message that cannot be run. Returned to the queue, it would come back for ever. */
  reject (error: UnusableMessage, message: ConsumeMessage, consumer: Consumer): void {
    this.track(this.#reject(error, message, consumer))
  }

  async #reject (error: UnusableMessage, message: ConsumeMessage, consumer: Consumer): Promise<void> {
    const { log, results, inTrouble } = this.#options
    log.error({ err: error, task: { id: error.id, name: error.task } }, 'background task failed: what is stored of it cannot be used')
    if (error.id !== null) {
      const task = { id: error.id, name: error.task, label: error.task } as StoredTask
      await results?.settle({ task, retries: 0, ignoreResult: false, progress: null }, { state: 'failed', error }).catch(inTrouble)
    }
    this.#subscription.reject(message, consumer)
  }

  /** The progress of an attempt that begins. */
  progressOf (held: HeldMessage): Progress {
    return new Progress(value => this.#noteProgress(held, value), error => this.#notStored(held, 'progress', error))
  }

  async #noteProgress (held: HeldMessage, value: unknown): Promise<void> {
    const text = toJson(value) as string
    held.progress = text
    await this.#options.results?.note('PROGRESS', held.attempt, JSON.parse(text))
  }

  #notStored (held: HeldMessage, what: string, err: unknown): void {
    this.#logOf(held).warn({ err, task: loggedTask(held.task) }, `RabbitMQ: the ${what} of a background task could not be stored`)
  }

  #logOf ({ task }: HeldMessage): FastifyBaseLogger {
    return this.#options.logOf(task.requestId)
  }
}
